"""What nnInteractive's clients send, validated: rounded to voxels and cut to the image where that is unambiguous.

Clients send what their applications hold: positions between voxels, and boxes and drawings that reach beyond the image.
nnInteractive's own server rounds both and cuts boxes, and so does this one. What is empty or lies outside is an error.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import numpy as np
import numpy.typing as npt
from fastapi import Request
from pydantic import BaseModel, Field, ValidationError

from s2vnet.errors import InputError
from s2vnet.prompts import Voxel
from s2vnet.utils.json_io import parse_json
from s2vnet.utils.validation_errors import first_error

_LIMIT = 2**31
Coordinate = Annotated[float, Field(allow_inf_nan=False, ge=-_LIMIT, le=_LIMIT)]
"""Position along an axis of the array, in voxels; whole numbers are centres of voxels."""
Edges = tuple[Coordinate, Coordinate]
Form = TypeVar("Form", bound=BaseModel)


class Buffer(BaseModel):
    """The client's array for the object."""

    shape: Annotated[tuple[Annotated[int, Field(gt=0, lt=_LIMIT)], ...], Field(max_length=8)]
    dtype: str


class PointInteraction(BaseModel):
    """A click."""

    coordinates: tuple[Coordinate, Coordinate, Coordinate]
    include_interaction: bool
    run_prediction: bool = True

    def voxel(self, shape: Voxel) -> Voxel:
        """Return the nearest voxel of an image (I, J, K). Raises InputError for a point outside of it."""
        i, j, k = (int(np.floor(c + 0.5)) for c in self.coordinates)
        if not all(0 <= c < n for c, n in zip((i, j, k), shape, strict=True)):
            raise InputError(f"point {self.coordinates} lies outside the image of {_size(shape)} voxels")
        return i, j, k


class BoxInteraction(BaseModel):
    """A half-open box; the edges of an axis may come in any order."""

    bbox_coords: tuple[Edges, Edges, Edges]
    include_interaction: bool
    run_prediction: bool = True

    def corners(self, shape: Voxel) -> tuple[Voxel, Voxel]:
        """Return start and stop of the part inside an image (I, J, K). Raises InputError for an empty one."""
        return _clip(_round_box(self.bbox_coords), shape)


class MaskInteraction(BaseModel):
    """A drawing: an array of the image's shape, or of that of its box."""

    include_interaction: bool
    interaction_bbox: tuple[Edges, Edges, Edges] | None = None
    run_prediction: bool = True

    def voxels(self, drawing: npt.NDArray[np.bool_], shape: Voxel) -> npt.NDArray[np.intp]:
        """Return the voxels (N, 3) of a drawing that lie in an image (I, J, K).

        Raises:
            InputError: the drawing is empty, lies outside, or has another shape than its box.
        """
        box = [(0, n) for n in shape] if self.interaction_bbox is None else _round_box(self.interaction_bbox)
        expected = tuple(b - a for a, b in box)
        if drawing.shape != expected:
            what = "its box" if self.interaction_bbox else "the image"
            raise InputError(f"a drawing of {_size(drawing.shape)} voxels, but {what} has {_size(expected)}")
        start, stop = _clip(box, shape)
        inside = tuple(slice(a - low, b - low) for a, b, (low, _) in zip(start, stop, box, strict=True))
        voxels = np.argwhere(drawing[inside])
        if not len(voxels):
            raise InputError("the drawing has no voxel in the image")
        voxels += np.array(start)
        return voxels


class InitialSegmentation(BaseModel):
    """An object to begin with: an array of the image's shape."""

    run_prediction: bool = False


class ImageForm(BaseModel):
    """Metadata of an image."""

    image_properties: dict[str, Any] | None = None


def read_meta(request: Request, form: type[Form]) -> Form:
    """Validate the metadata of an array, which come as a header. Raises InputError."""
    try:
        return form.model_validate(parse_json(request.headers.get("x-meta", "{}")))
    except ValidationError as error:
        raise InputError(f"X-Meta: {first_error(error)}") from error
    except ValueError as error:
        raise InputError("X-Meta is not JSON") from error


def _round_box(edges: tuple[Edges, Edges, Edges]) -> list[tuple[int, int]]:
    """Round a box to voxels; what is thinner than a voxel becomes one voxel. Raises InputError for an empty axis."""
    box = []
    for axis, (low, high) in enumerate((min(pair), max(pair)) for pair in edges):
        if low == high:
            raise InputError(f"the box is empty along axis {axis}: it ends where it begins, at {low:g}")
        start, stop = int(np.floor(low + 0.5)), int(np.floor(high + 0.5))
        box.append((start, stop) if stop > start else (int(np.floor(low)), int(np.floor(low)) + 1))
    return box


def _clip(box: list[tuple[int, int]], shape: Voxel) -> tuple[Voxel, Voxel]:
    """Cut a box to an image (I, J, K). Raises InputError if nothing remains."""
    (i, i1), (j, j1), (k, k1) = ((max(a, 0), min(b, n)) for (a, b), n in zip(box, shape, strict=True))
    if i1 <= i or j1 <= j or k1 <= k:
        raise InputError(f"the box {box} lies outside the image of {_size(shape)} voxels")
    return (i, j, k), (i1, j1, k1)


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
