"""Voxels as their files hold them: float32 is made of them a few slices at a time, since it takes twice the memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from s2vnet.errors import InputError
from s2vnet.io.frames import Frames, Scale, as_float32
from s2vnet.io.geometry import Geometry, Volume

VOXELS_AT_ONCE = 1 << 22
"""About how many voxels are brought to float32 at a time where all of them are looked at."""


@dataclass(frozen=True, eq=False)
class Channel:
    """One channel as its file holds it."""

    stored: npt.NDArray[Any]
    """(I, J, K), of any real type."""
    scale: Scale
    """What of it, or of a part of it, is the image: float32 in the file's units."""

    @property
    def values(self) -> npt.NDArray[np.float32]:
        """All of it as float32."""
        return self.scale(self.stored)

    def some(self, count: int) -> npt.NDArray[np.float32]:
        """About `count` voxels (n,) from everywhere, or all."""
        return self.scale(self.stored.ravel(order="K")[:: max(1, self.stored.size // count)])

    def require_finite(self, fill: float | None) -> Channel:
        """The channel with `fill` in place of NaN and infinity.

        Raises:
            InputError: there are such voxels and `fill` is None.
        """
        step = max(1, VOXELS_AT_ONCE * self.stored.shape[-1] // self.stored.size)
        parts = (self.scale(self.stored[..., k : k + step]) for k in range(0, self.stored.shape[-1], step))
        bad = sum(part.size - int(np.count_nonzero(np.isfinite(part))) for part in parts)
        if bad == 0:
            return self
        if fill is None:
            hint = "repair the image or fill them with --fill-nan VALUE"
            raise InputError(f"{bad} of {self.stored.size} voxels are NaN or infinite; {hint}")
        return replace(self, scale=_filled(self.scale, fill))


@dataclass(frozen=True, eq=False)
class LazyImage:
    """Image channels on one grid, as their files hold them."""

    channels: tuple[Channel, ...]
    geometry: Geometry

    @classmethod
    def of(cls, image: Volume | Frames | LazyImage) -> LazyImage:
        """The same image; nothing is copied."""
        if isinstance(image, LazyImage):
            return image
        scale = image.scale if isinstance(image, Frames) else as_float32
        return cls(tuple(Channel(channel, scale) for channel in image.data), image.geometry)

    @property
    def volume(self) -> Volume:
        """All of it as float32."""
        channels = [channel.values[None] for channel in self.channels]
        return Volume(channels[0] if len(channels) == 1 else np.concatenate(channels), self.geometry)

    def require_finite(self, fill: float | None) -> LazyImage:
        """As :meth:`Channel.require_finite`, for each channel."""
        return replace(self, channels=tuple(channel.require_finite(fill) for channel in self.channels))


def _filled(scale: Scale, fill: float) -> Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]:
    def filled(part: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        values = scale(part)
        return np.where(np.isfinite(values), values, np.float32(fill))

    return filled
