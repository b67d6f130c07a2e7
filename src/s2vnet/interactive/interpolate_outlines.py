"""Shape interpolation between two outlines on parallel slices.

Signed distances to both outlines are interpolated linearly (Raya and Udupa, IEEE TMI 1990).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Voxels = npt.NDArray[np.intp]


def between_outlines(first: Voxels, second: Voxels, shape: tuple[int, ...]) -> Voxels:
    """Flat indices (N,) of the voxels between two outlines, without their own slices.

    Args:
        first: voxels (N, 3) of an outline on one slice.
        second: voxels (M, 3) of an outline on another slice across the same axis.
        shape: shape (I, J, K) of the volume.

    Returns:
        An empty array where the outlines do not lie on two slices across one axis.
    """
    flat_axes = [a for a in range(3) if np.ptp(first[:, a]) == 0 and np.ptp(second[:, a]) == 0]
    flat_axes = [a for a in flat_axes if abs(int(first[0, a]) - int(second[0, a])) > 1]
    if len(flat_axes) != 1:
        return np.empty(0, np.intp)
    (axis,) = flat_axes
    planes = [np.delete(v, axis, axis=1) for v in (first, second)]
    low = np.minimum(*(p.min(0) for p in planes)) - 1
    high = np.maximum(*(p.max(0) for p in planes)) + 2
    distances = []
    for plane in planes:
        mask = np.zeros(high - low, bool)
        mask[tuple((plane - low).T)] = True
        distances.append(ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask))
    start, stop = int(first[0, axis]), int(second[0, axis])
    filled = []
    for position in range(min(start, stop) + 1, max(start, stop)):
        share = (position - start) / (stop - start)
        inside = np.argwhere((1 - share) * distances[0] + share * distances[1] > 0) + low
        filled.append(np.insert(inside, axis, position, axis=1))
    voxels = np.concatenate(filled)
    flat: Voxels = np.sort(np.ravel_multi_index(tuple(voxels.T), shape))
    return flat
