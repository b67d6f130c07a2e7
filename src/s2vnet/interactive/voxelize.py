"""Which voxels of the file, and which cells of the network's slices, a prompt speaks of."""

from __future__ import annotations

from typing import TypeGuard

import numpy as np
import numpy.typing as npt

from s2vnet.data.slice_grid import SliceGrid
from s2vnet.prompts import Box, Entry, Lasso, Mask, Point, Prompt, Scribble

Voxels = npt.NDArray[np.intp]


def prompt_voxels(prompt: Prompt) -> Voxels:
    """File voxels (N, 3) that a prompt names; a box names those inside it."""
    if isinstance(prompt, Point):
        return np.array([prompt.voxel], np.intp)
    if isinstance(prompt, Scribble):
        return np.array(prompt.voxels, np.intp)
    if isinstance(prompt, Mask):
        return prompt.voxels()
    if isinstance(prompt, Box):
        ranges = (np.arange(a, b) for a, b in zip(prompt.start, prompt.stop, strict=True))
        return np.stack(np.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, 3)
    return _inside(prompt)


def is_box(prompt: Entry) -> TypeGuard[Box]:
    """Whether it says where a class ends; "not in this box" is a statement on the voxels inside, as a mask's."""
    return isinstance(prompt, Box) and prompt.positive


def prompt_cells(grid: SliceGrid, prompt: Prompt, stride: int = 1) -> npt.NDArray[np.float64]:
    """Network slice, row and column (N, 3) of a prompt, in cells of `stride` pixels; a box has two corners."""
    if not is_box(prompt):
        return grid.voxels_to_cells(prompt_voxels(prompt), stride)
    crop = grid.file_region(0, grid.size[0])
    low = np.maximum(prompt.start, [s.start for s in crop])
    high = np.minimum(prompt.stop, [s.stop for s in crop]) - 1
    return grid.voxels_to_cells(np.empty((0, 3)) if (high < low).any() else np.array([low, high]), stride)


def _inside(lasso: Lasso) -> Voxels:
    """Voxels whose centres lie in the polygon or on its edges."""
    from matplotlib.path import Path as Polygon

    vertices = np.array(lasso.vertices)
    flat = np.delete(vertices, lasso.axis, axis=1)
    low, high = flat.min(0), flat.max(0)
    grid = np.stack(np.meshgrid(*(np.arange(a, b + 1) for a, b in zip(low, high, strict=True)), indexing="ij"), -1)
    inside = grid.reshape(-1, 2)[Polygon(flat).contains_points(grid.reshape(-1, 2))]
    edges = [
        a + np.outer(np.arange(steps), b - a) // steps
        for a, b in zip(flat, np.roll(flat, -1, axis=0), strict=True)
        if (steps := int(np.gcd(*(b - a)))) > 0
    ]
    found = np.unique(np.concatenate([inside, flat, *edges]), axis=0)
    voxels: Voxels = np.insert(found, lasso.axis, vertices[0, lasso.axis], axis=1)
    return voxels
