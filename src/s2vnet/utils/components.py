"""Connected components and bounding boxes of binary masks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

CONNECTIVITY_26 = np.ones((3, 3, 3), bool)
"""Structuring element of 26-connected components: voxels that share a face, an edge or a corner."""


def bounding_box(mask: npt.NDArray[np.bool_]) -> tuple[slice, slice, slice] | None:
    """Slices of the smallest box that holds all True voxels of a mask (I, J, K), or None for an empty mask."""
    sides = [np.flatnonzero(mask.any(tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    if not len(sides[0]):
        return None
    i, j, k = (slice(int(side[0]), int(side[-1]) + 1) for side in sides)
    return i, j, k


def largest_component(mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.bool_], tuple[slice, slice, slice]] | None:
    """Find the largest 26-connected component of a mask (I, J, K).

    Returns:
        The component within its bounding box, and that box; None for an empty mask.
    """
    box = bounding_box(mask)
    if box is None:
        return None
    labels, _ = ndimage.label(mask[box], CONNECTIVITY_26)
    component = labels == int(np.bincount(labels.ravel())[1:].argmax()) + 1
    inner = bounding_box(component)
    assert inner is not None
    i, j, k = (slice(a.start + b.start, a.start + b.stop) for a, b in zip(box, inner, strict=True))
    return component[inner], (i, j, k)


def components_at(mask: npt.NDArray[np.bool_], voxels: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    """6-connected components of a mask (I, J, K) that hold one of some voxels (N, 3)."""
    components, count = ndimage.label(mask)
    kept = np.zeros(count + 1, bool)
    kept[components[tuple(voxels.T)]] = True
    kept[0] = False
    chosen: npt.NDArray[np.bool_] = kept[components]
    return chosen
