"""Suggestions of what to check: the slice, voxel, or list of places of highest uncertainty away from prompts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from s2vnet.inference.segmentation import Segmentation
from s2vnet.interactive.history import Log
from s2vnet.interactive.voxelize import is_prompt, prompt_corners
from s2vnet.prompts import Voxel

CHECKED_MARGIN = 2
"""The network's slices on either side of a prompt that count as checked."""
PLACE_DISTANCE_MM, PLACE_DISTANCE_SHARE = 30.0, 0.2
"""Smallest distance of two places, and of a place from a prompt: mm, or a share of a small volume's largest side."""
PLACE_SIZE = 0.4
"""Side of the block over which the uncertainty of a place is averaged, in units of that distance; a sharp border alone
is not doubtful."""
PLACE_SHARE = 0.25
"""Places are less uncertain than the first one, down to this share of its uncertainty."""


def slice_uncertainty(segmentation: Segmentation) -> npt.NDArray[np.float32]:
    """Mean entropy (D,) in nats of the class probabilities on each of the network's slices."""
    entropy = torch.special.entr(segmentation.scores.float().clamp(0, 1)).sum(1)
    uncertainty: npt.NDArray[np.float32] = entropy.mean((1, 2)).cpu().numpy()
    return uncertainty


def next_slice(segmentation: Segmentation, log: Log) -> tuple[int, int] | None:
    """File axis and index of the most uncertain slice away from prompts; None where no slice is left."""
    grid, uncertainty = segmentation.grid, slice_uncertainty(segmentation)
    for entry in log:
        if is_prompt(entry):
            d = np.rint(grid.voxels_to_pixels(prompt_corners(entry))[:, 0]).astype(int)
            uncertainty[max(0, d.min() - CHECKED_MARGIN) : max(0, d.max() + CHECKED_MARGIN + 1)] = -1
    if uncertainty.max() <= 0:
        return None
    start, stop = grid.slab(int(uncertainty.argmax()))
    axis = grid.orientation.axes[grid.axis]
    return axis, grid.file_region((start + stop) // 2, (start + stop) // 2 + 1)[axis].start


def newest_prompt_centre(log: Log) -> Voxel | None:
    """Centre of the newest prompt's bounding box; None without prompts."""
    prompts = [entry for entry in log if is_prompt(entry)]
    if not prompts:
        return None
    corners = prompt_corners(prompts[-1])
    i, j, k = ((corners.min(0) + corners.max(0)) // 2).tolist()
    return i, j, k


def next_voxel(segmentation: Segmentation, log: Log, stride: int) -> Voxel:
    """Most uncertain voxel of :func:`next_slice`; the volume's centre where there is no such slice.

    Args:
        segmentation: the network's current result.
        log: prompts and locks.
        stride: side of a mask cell in pixels of the network's slices.
    """
    grid = segmentation.grid
    shape = list(grid.geometry.shape)
    suggestion = next_slice(segmentation, log)
    if suggestion is None:
        i, j, k = (n // 2 for n in shape)
        return i, j, k
    axis, index = suggestion
    shape[axis] = 1
    voxels = np.indices(shape).reshape(3, -1).T
    voxels[:, axis] = index
    cropped = grid.voxels_to_crop(voxels)
    voxels = voxels[((cropped >= 0) & (cropped < grid.size)).all(1)]
    entropy = torch.special.entr(scores_at(segmentation, voxels, stride)).sum(1)
    i, j, k = voxels[int(entropy.argmax())].tolist()
    return i, j, k


def places_to_check(segmentation: Segmentation, log: Log, stride: int, count: int) -> list[Voxel]:
    """Voxels of highest uncertainty, the most uncertain place first, apart from each other and from prompts.

    Args:
        segmentation: the network's automatic result.
        log: prompts and locks.
        stride: side of a mask cell in pixels of the network's slices.
        count: largest number of places.
    """
    grid = segmentation.grid
    rows, columns = (-(-n // stride) for n in grid.sampled)  # the others are padding
    entropy = torch.special.entr(segmentation.scores[..., :rows, :columns].float().clamp(0, 1)).sum(1).cpu().numpy()
    spacing = np.array([grid.slice_distance * grid.pixel_size, *[grid.pixel_size * stride] * 2])
    distance = min(PLACE_DISTANCE_MM, PLACE_DISTANCE_SHARE * float((spacing * entropy.shape).max()))
    size = [max(1, round(PLACE_SIZE * distance / mm)) for mm in spacing.tolist()]
    doubt: npt.NDArray[np.float32] = ndimage.uniform_filter(entropy, size, mode="constant")
    for entry in log:
        if is_prompt(entry):
            cells = grid.voxels_to_cells(prompt_corners(entry), stride)
            _suppress(doubt, cells.min(0), cells.max(0), spacing, distance)
    places: list[Voxel] = []
    least = max(PLACE_SHARE * float(doubt.max()), np.finfo(np.float32).tiny)
    while len(places) < count and doubt.max() >= least:
        cell = np.array(np.unravel_index(doubt.argmax(), doubt.shape), np.float64)
        i, j, k = grid.cells_to_voxels(cell[None], stride)[0].tolist()
        places.append((i, j, k))
        _suppress(doubt, cell, cell, spacing, distance)
    return places


def _suppress(
    doubt: npt.NDArray[np.float32],
    low: npt.NDArray[np.float64],
    high: npt.NDArray[np.float64],
    spacing: npt.NDArray[np.float64],
    distance: float,
) -> None:
    """Set cells (D, h, w) to zero that are within a distance (mm) of a box from `low` to `high`; `spacing` in mm."""
    reach = distance / spacing
    start = np.maximum(np.floor(low - reach), 0).astype(int)
    stop = np.maximum(np.ceil(high + reach) + 1, 0).astype(int)
    block = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
    grid = np.indices(doubt[block].shape).reshape(3, -1).T + start
    outside = (np.maximum(low - grid, 0) + np.maximum(grid - high, 0)) * spacing
    near = np.hypot.reduce(outside, axis=1) < distance
    doubt[block][near.reshape(doubt[block].shape)] = 0


def scores_at(segmentation: Segmentation, voxels: npt.NDArray[np.intp], stride: int) -> Tensor:
    """Class probabilities (N, K) of the mask cells nearest to file voxels (N, 3); `stride` as in :func:`next_voxel`."""
    scores = segmentation.scores
    cells = segmentation.grid.voxels_to_cells(voxels, stride)
    d, y, x = np.clip(np.rint(cells).astype(int), 0, np.array(scores.shape)[[0, 2, 3]] - 1).T
    return scores[d, :, y, x].float().clamp(0, 1)
