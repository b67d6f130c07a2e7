"""Prompts as immutable values, shared by every layer. No torch, no files.

A prompt has a class and a location in voxel indices ``i j k``, in the axis order of the image file;
:mod:`s2vnet.interactive.voxelize` converts it to the network's grid. The state of a session is its list of prompts.
"""

from __future__ import annotations

import base64
import zlib
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from s2vnet.errors import InputError

Voxel = tuple[int, int, int]
"""Voxel indices (i, j, k) in file axis order."""


def _with_kind(schema: dict[str, Any]) -> None:
    """Require the kind in the JSON schema: it discriminates the entries."""
    schema["required"] = ["kind", *schema.get("required", [])]


class _Prompt(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=_with_kind)

    class_id: int = Field(ge=0)
    """Label value that the prompt refers to; 0 is background."""
    positive: bool = True
    """True: these voxels are ``class_id``. False: they are not."""


class Point(_Prompt):
    """One clicked voxel."""

    kind: Literal["point"] = "point"
    voxel: Voxel


class Scribble(_Prompt):
    """Voxels drawn with a brush."""

    kind: Literal["scribble"] = "scribble"
    voxels: tuple[Voxel, ...] = Field(min_length=1)


class Lasso(_Prompt):
    """Closed polygon, with its interior, on one image slice perpendicular to ``axis``."""

    kind: Literal["lasso"] = "lasso"
    axis: int = Field(ge=0, le=2)
    vertices: tuple[Voxel, ...] = Field(min_length=3)

    @model_validator(mode="after")
    def _planar(self) -> Lasso:
        if len({vertex[self.axis] for vertex in self.vertices}) != 1:
            raise ValueError(f"lasso vertices must share one index along axis {self.axis}")
        return self


class Box(_Prompt):
    """Half-open box ``start <= ijk < stop`` that encloses the class on the slices that it spans.

    A negative box contains no voxel of the class.
    """

    kind: Literal["box"] = "box"
    start: Voxel
    stop: Voxel

    @model_validator(mode="after")
    def _ordered(self) -> Box:
        if any(b <= a for a, b in zip(self.start, self.stop, strict=True)):
            raise ValueError(f"box stop {self.stop} must lie beyond start {self.start} along every axis")
        return self


class Mask(_Prompt):
    """Voxels given as a binary mask: a bounding box and zlib-compressed, base64-coded bits (C order)."""

    kind: Literal["mask"] = "mask"
    start: Voxel
    stop: Voxel
    bits: str

    @classmethod
    def from_array(cls, mask: npt.NDArray[np.bool_], class_id: int, positive: bool = True) -> Mask:
        """Pack a boolean array (I, J, K) covering the whole image.

        Raises:
            InputError: The mask is empty.
        """
        voxels = np.argwhere(mask)
        if len(voxels) == 0:
            raise InputError("a mask prompt must hold at least one voxel")
        low, high = voxels.min(0), voxels.max(0) + 1
        crop = mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        bits = base64.b64encode(zlib.compress(np.packbits(crop).tobytes())).decode()
        (i, j, k), (i1, j1, k1) = low.tolist(), high.tolist()
        return cls(class_id=class_id, positive=positive, start=(i, j, k), stop=(i1, j1, k1), bits=bits)

    def voxels(self) -> npt.NDArray[np.intp]:
        """Return the voxel indices (N, 3) inside the mask.

        Raises:
            InputError: The bits are damaged, truncated, or not those of the box.
        """
        shape = tuple(b - a for a, b in zip(self.start, self.stop, strict=True))
        count = int(np.prod(shape))
        size = -(-count // 8)
        stream = zlib.decompressobj()
        try:
            # one byte more than expected, so that bits of a larger box are detected and not unpacked further
            raw = stream.decompress(base64.b64decode(self.bits, validate=True), size + 1)
            if len(raw) != size or not stream.eof:
                raise ValueError(f"it does not hold the {count} voxels of its box")
            crop = np.unpackbits(np.frombuffer(raw, np.uint8), count=count).reshape(shape)
        except (OverflowError, ValueError, zlib.error) as error:
            raise InputError(f"mask prompt is damaged ({error}); export the prompt log again") from error
        voxels: npt.NDArray[np.intp] = np.argwhere(crop) + np.array(self.start)
        return voxels


class Lock(BaseModel):
    """Lock a class: later prompts do not change its voxels, until an entry with ``locked=False``."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=_with_kind)

    kind: Literal["lock"] = "lock"
    class_id: int = Field(ge=0)
    locked: bool = True


class NewClass(BaseModel):
    """Add a class of one's own, which the network does not know and which only prompts segment."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=_with_kind)

    kind: Literal["class"] = "class"
    class_id: int = Field(ge=1, le=255)
    """Label value of the new class."""
    name: str = Field(min_length=1, max_length=100)


class Extent(BaseModel):
    """All of a class: exactly these voxels, as if they had been segmented so; later prompts may change any of them.

    Packed as in :class:`Mask`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=_with_kind)

    kind: Literal["extent"] = "extent"
    class_id: int = Field(ge=1)
    start: Voxel
    stop: Voxel
    bits: str

    @classmethod
    def from_array(cls, mask: npt.NDArray[np.bool_], class_id: int) -> Extent:
        """Pack a boolean array (I, J, K) covering the whole image. Raises InputError when it is empty."""
        packed = Mask.from_array(mask, class_id)
        return cls(class_id=class_id, start=packed.start, stop=packed.stop, bits=packed.bits)

    @property
    def mask(self) -> Mask:
        """The same voxels as a prompt."""
        return Mask(class_id=self.class_id, start=self.start, stop=self.stop, bits=self.bits)


Prompt = Point | Scribble | Lasso | Box | Mask
Entry = Annotated[Point | Scribble | Lasso | Box | Mask | Lock | NewClass | Extent, Field(discriminator="kind")]
"""One entry of a prompt log."""
