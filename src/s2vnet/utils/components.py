"""Connected components and bounding boxes of binary masks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

CONNECTIVITY_26 = np.ones((3, 3, 3), bool)
"""Structuring element of 26-connected components: voxels that share a face, an edge or a corner."""


def bounding_box(mask: npt.NDArray[np.bool_]) -> tuple[slice, slice, slice] | None:
    """Slices of the smallest box that holds all True voxels of a mask (I, J, K), or None for an empty mask."""
    sides = [np.flatnonzero(mask.any(tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    if not len(sides[0]):
        return None
    i, j, k = (slice(int(side[0]), int(side[-1]) + 1) for side in sides)
    return i, j, k
