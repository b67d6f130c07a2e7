"""Voxels of the file that a prompt covers."""

from __future__ import annotations

from typing import TypeGuard

import numpy as np
import numpy.typing as npt

from s2vnet.prompts import Box, Entry, Extent, Lasso, Mask, Point, Prompt, Scribble

Voxels = npt.NDArray[np.intp]


def prompt_voxels(prompt: Prompt) -> Voxels:
    """File voxels (N, 3) that a prompt covers; of a box, those inside it."""
    if isinstance(prompt, Point):
        return np.array([prompt.voxel], np.intp)
    if isinstance(prompt, Scribble):
        return np.array(prompt.voxels, np.intp)
    if isinstance(prompt, Mask):
        return prompt.voxels()
    if isinstance(prompt, Box):
        ranges = (np.arange(a, b) for a, b in zip(prompt.start, prompt.stop, strict=True))
        return np.stack(np.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, 3)
    return _lasso_voxels(prompt)


def num_prompt_voxels(entry: Entry) -> int:
    """Number of voxels in the definition of a prompt; for a box, mask or extent, those of its bounding box."""
    if isinstance(entry, Box | Mask | Extent):
        return int(np.prod([b - a for a, b in zip(entry.start, entry.stop, strict=True)], dtype=object))
    return len(entry.voxels) if isinstance(entry, Scribble) else 1


def prompt_corners(prompt: Prompt) -> Voxels:
    """Voxels (N, 3) with the same bounding box as the prompt."""
    if isinstance(prompt, Box | Mask):
        return np.array([prompt.start, np.array(prompt.stop) - 1])
    if isinstance(prompt, Lasso):
        return np.array(prompt.vertices)
    return prompt_voxels(prompt)


def is_prompt(entry: Entry) -> TypeGuard[Prompt]:
    """Whether an entry says something about voxels; the others lock a class, add one, or set its extent."""
    return isinstance(entry, Point | Scribble | Lasso | Box | Mask)


def is_box(prompt: Entry) -> TypeGuard[Box]:
    """Whether a prompt bounds a class; a negative box denies the voxels inside instead, as a mask does."""
    return isinstance(prompt, Box) and prompt.positive


def _lasso_voxels(lasso: Lasso) -> Voxels:
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
    in_plane = np.unique(np.concatenate([inside, flat, *edges]), axis=0)
    voxels: Voxels = np.insert(in_plane, lasso.axis, vertices[0, lasso.axis], axis=1)
    return voxels
