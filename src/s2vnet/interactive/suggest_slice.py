"""Suggestion of the slice or voxel to check next: the one of highest uncertainty away from prompts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from s2vnet.inference.segmentation import Segmentation
from s2vnet.interactive.history import Log
from s2vnet.interactive.voxelize import is_prompt, prompt_corners
from s2vnet.prompts import Voxel

CHECKED_MARGIN = 2
"""The network's slices on either side of a prompt that count as checked."""


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


def scores_at(segmentation: Segmentation, voxels: npt.NDArray[np.intp], stride: int) -> Tensor:
    """Class probabilities (N, K) of the mask cells nearest to file voxels (N, 3); `stride` as in :func:`next_voxel`."""
    scores = segmentation.scores
    cells = segmentation.grid.voxels_to_cells(voxels, stride)
    d, y, x = np.clip(np.rint(cells).astype(int), 0, np.array(scores.shape)[[0, 2, 3]] - 1).T
    return scores[d, :, y, x].float().clamp(0, 1)
