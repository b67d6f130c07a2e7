"""What earlier entries of a log say, beside the labels that they led to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from s2vnet.data.slice_grid import SliceGrid
from s2vnet.interactive.voxelize import is_box, is_prompt, prompt_voxels
from s2vnet.prompts import Entry, Extent, Lasso, Lock, Mask

Voxels = npt.NDArray[np.intp]
_NO_PIXELS = np.empty((0, 3), np.intp)


class Prompted(NamedTuple):
    """Voxels that prompts of one class and sign cover."""

    voxels: Voxels
    """(N,) flat indices, rising."""
    pixels: Voxels
    """(M, 3) network slice, row and column of the pixels that hold them."""


@dataclass(frozen=True)
class PromptState:
    """Prompted voxels by class and sign, and locked classes; its size does not depend on the number of entries."""

    prompted: Mapping[tuple[int, bool], Prompted] = field(default_factory=dict)
    """By class and whether the voxels are of it; boxes around a class are left out."""
    outlines: Mapping[int, Lasso | Mask] = field(default_factory=dict)
    """Last outline of each class."""
    locked: frozenset[int] = frozenset()

    def add(self, entry: Entry, grid: SliceGrid) -> PromptState:
        """State after an entry for the image with this grid."""
        if isinstance(entry, Lock):
            locked = self.locked | {entry.class_id} if entry.locked else self.locked - {entry.class_id}
            return replace(self, locked=locked)
        if isinstance(entry, Extent):  # replaces what earlier prompts say of the class
            prompted = {key: value for key, value in self.prompted.items() if key[0] != entry.class_id}
            return replace(self, prompted=prompted, outlines=_without(self.outlines, entry.class_id))
        if not is_prompt(entry) or is_box(entry):
            return self
        key, voxels = (entry.class_id, entry.positive), prompt_voxels(entry)
        found = Prompted(flat_indices(voxels, grid.geometry.shape), voxels_to_pixels(grid, voxels))
        earlier = self.prompted.get(key)
        if earlier is not None:
            pixels = _unique(np.concatenate([earlier.pixels, found.pixels]), grid)
            found = Prompted(np.union1d(earlier.voxels, found.voxels), pixels)
        outlines = {**self.outlines, entry.class_id: entry} if isinstance(entry, Lasso | Mask) else self.outlines
        return replace(self, prompted={**self.prompted, key: found}, outlines=outlines)

    def kept(self, class_id: int, positive: bool) -> list[Voxels]:
        """Flat indices of prompted voxels that a prompt elsewhere does not change."""
        return [
            each.voxels for (other, sign), each in self.prompted.items() if sign or (other == class_id and positive)
        ]

    def agreeing_pixels(self, class_id: int, positive: bool) -> Voxels:
        """Pixels (N, 3) of earlier prompts of the same class and sign."""
        found = self.prompted.get((class_id, positive))
        return _NO_PIXELS if found is None else found.pixels

    def contradicting_pixels(self, class_id: int, positive: bool) -> Voxels:
        """Pixels (N, 3) of earlier prompts of the class with the other sign, and of other classes that exclude it."""
        found = [
            each.pixels
            for (other, sign), each in self.prompted.items()
            if (sign != positive if other == class_id else sign and positive)
        ]
        return np.concatenate(found) if found else _NO_PIXELS

    def denied(self) -> list[tuple[int, Voxels]]:
        """Classes and the flat indices of voxels that prompts say are not of them."""
        return [(class_id, each.voxels) for (class_id, sign), each in self.prompted.items() if not sign]

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return sum(array.nbytes for each in self.prompted.values() for array in each)


def flat_indices(voxels: Voxels, shape: tuple[int, ...]) -> Voxels:
    """Flat indices (M,) in C order, rising and unique, of voxels (N, 3)."""
    flat: Voxels = np.unique(np.ravel_multi_index(tuple(voxels.T), shape))
    return flat


def voxels_to_pixels(grid: SliceGrid, voxels: Voxels) -> Voxels:
    """Pixels (M, 3) of the network's slices that hold file voxels (N, 3); those outside the crop are left out."""
    crop = grid.voxels_to_crop(voxels)
    inside = ((crop >= 0) & (crop < np.array(grid.size))).all(1)
    pixels = np.rint(grid.voxels_to_pixels(voxels[inside])).astype(np.intp)
    return _unique(np.clip(pixels, 0, np.array([grid.depth, *grid.padded]) - 1), grid)


def _unique(pixels: Voxels, grid: SliceGrid) -> Voxels:
    if len(pixels) < 2:
        return pixels
    shape = (grid.depth, *grid.padded)
    return np.stack(np.unravel_index(flat_indices(pixels, shape), shape), 1)


def _without(outlines: Mapping[int, Lasso | Mask], class_id: int) -> Mapping[int, Lasso | Mask]:
    return {key: value for key, value in outlines.items() if key != class_id}
