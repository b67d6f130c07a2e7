"""Images in the data type of their files; converting them to float32 in parts takes half the memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from s2vnet.errors import InputError
from s2vnet.io.geometry import Geometry, Volume

Scale = Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]
"""Convert stored values to image values (float32) by slope and intercept."""

CHUNK_VOXELS = 1 << 22
"""Approximate number of voxels that are converted at a time to check them."""


def as_float32(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Convert values without slope and intercept; those beyond float32's range become infinite."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32, copy=False)


@dataclass(frozen=True, eq=False)
class Channel:
    """One image channel as stored."""

    stored: npt.NDArray[Any]
    """(I, J, K) of any real data type."""
    scale: Scale = as_float32
    """Conversion of `stored`, or of a part of it, to float32 in the file's units."""

    def to_float32(self) -> npt.NDArray[np.float32]:
        """Convert the channel (I, J, K)."""
        return self.scale(self.stored)

    def sample(self, count: int) -> npt.NDArray[np.float32]:
        """About `count` voxels (n,) at regular strides, or all."""
        return self.scale(self.stored.ravel(order="K")[:: max(1, self.stored.size // count)])

    def require_finite(self, fill: float | None) -> Channel:
        """Replace NaN and infinity by `fill`.

        Raises:
            InputError: there are such voxels and `fill` is None.
        """
        step = max(1, CHUNK_VOXELS * self.stored.shape[-1] // self.stored.size)
        parts = (self.scale(self.stored[..., k : k + step]) for k in range(0, self.stored.shape[-1], step))
        nonfinite = sum(part.size - int(np.count_nonzero(np.isfinite(part))) for part in parts)
        if nonfinite == 0:
            return self
        if fill is None:
            hint = "repair the image or fill them with --fill-nan VALUE"
            raise InputError(f"{nonfinite} of {self.stored.size} voxels are NaN or infinite; {hint}")
        return replace(self, scale=_fill_nonfinite(self.scale, fill))


@dataclass(frozen=True, eq=False)
class LazyImage:
    """Image channels on one grid, as stored."""

    channels: tuple[Channel, ...]
    geometry: Geometry
    modality: str | None = None
    """As of :class:`~s2vnet.io.geometry.Volume`."""

    @classmethod
    def from_arrays(cls, data: npt.NDArray[Any], geometry: Geometry) -> LazyImage:
        """Image of arrays (C, I, J, K) of any real data type, whose values are the image's. Nothing is copied.

        Raises:
            InputError: the shape is not the grid's, or the values are no real numbers.
        """
        if data.ndim != 4 or data.shape[0] < 1 or data.shape[1:] != geometry.shape:
            raise InputError(f"image array {data.shape} must be (channels, *{geometry.shape})")
        if data.dtype.kind not in "iufb":
            raise InputError(f"{data.dtype} voxels; a grey-value volume is needed")
        return cls(tuple(map(Channel, data)), geometry)

    def to_volume(self) -> Volume:
        """Convert all channels to float32."""
        channels = [channel.to_float32()[None] for channel in self.channels]
        data = channels[0] if len(channels) == 1 else np.concatenate(channels)
        return Volume(data, self.geometry, self.modality)

    def require_finite(self, fill: float | None) -> LazyImage:
        """Apply :meth:`Channel.require_finite` to each channel."""
        return replace(self, channels=tuple(channel.require_finite(fill) for channel in self.channels))


def as_lazy_image(image: Volume | LazyImage) -> LazyImage:
    """Return the image as a lazy one; nothing is copied."""
    if isinstance(image, LazyImage):
        return image
    return LazyImage(tuple(map(Channel, image.data)), image.geometry, image.modality)


def _fill_nonfinite(scale: Scale, fill: float) -> Scale:
    def filled(part: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        values = scale(part)
        return np.where(np.isfinite(values), values, np.float32(fill))

    return filled
