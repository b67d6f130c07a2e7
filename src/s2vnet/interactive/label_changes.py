"""Voxels whose label an entry of a log changes, and their packed form."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.uint8]
Voxels = npt.NDArray[np.intp]
_COMPRESSION_LEVEL = 1


class LabelChange(NamedTuple):
    """Voxels whose label changes."""

    voxels: Voxels
    """(N,) flat indices in C order, rising."""
    before: Labels
    """(N,)."""
    after: Labels
    """(N,)."""

    @classmethod
    def none(cls) -> LabelChange:
        """Change of no voxel."""
        return cls(np.empty(0, np.intp), np.empty(0, np.uint8), np.empty(0, np.uint8))

    def select(self, chosen: npt.NDArray[np.bool_]) -> LabelChange:
        """Change of chosen (N,) voxels only."""
        return LabelChange(self.voxels[chosen], self.before[chosen], self.after[chosen])

    def then(self, later: LabelChange) -> LabelChange:
        """One change that equals this one and another one after it."""
        voxels = np.union1d(self.voxels, later.voxels)
        before, after = np.zeros(len(voxels), np.uint8), np.zeros(len(voxels), np.uint8)
        for change in (self, later):
            after[np.searchsorted(voxels, change.voxels)] = change.after
        for change in (later, self):
            before[np.searchsorted(voxels, change.voxels)] = change.before
        return LabelChange(voxels, before, after).select(before != after)


@dataclass(frozen=True, eq=False)
class PackedChange:
    """Compressed :class:`LabelChange`: a tenth to a half of a byte per voxel, instead of ten bytes."""

    count: int
    data: bytes
    """zlib stream of the differences of successive indices, as the bytes of 64-bit integers by significance, followed
    by the labels before and after."""

    @classmethod
    def of(cls, change: LabelChange) -> PackedChange:
        """Pack a change."""
        steps = np.diff(change.voxels, prepend=0).astype("<u8").view(np.uint8).reshape(-1, 8)
        raw = np.ascontiguousarray(steps.T).tobytes() + change.before.tobytes() + change.after.tobytes()
        return cls(len(change.voxels), zlib.compress(raw, _COMPRESSION_LEVEL))

    def unpack(self) -> LabelChange:
        """Return the change."""
        raw, n = np.frombuffer(zlib.decompress(self.data), np.uint8), self.count
        steps = np.ascontiguousarray(raw[: 8 * n].reshape(8, n).T).view("<u8")[:, 0]
        return LabelChange(np.cumsum(steps).astype(np.intp), raw[8 * n : 9 * n], raw[9 * n :])

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return len(self.data)
