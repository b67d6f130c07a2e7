"""What a client has drawn as a prompt."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from s2vnet.errors import InputError
from s2vnet.prompts import Entry, Mask, Scribble, Voxel

SCRIBBLE_VOXELS = 20_000
"""More than these are taken as a mask."""


def voxels_of(drawing: npt.NDArray[np.bool_], start: npt.ArrayLike = (0, 0, 0)) -> npt.NDArray[np.intp]:
    """Voxels (N, 3) of a drawing (I, J, K) whose first voxel lies at `start`. Raises InputError when there are none."""
    inside = np.argwhere(drawing) + np.asarray(start, np.intp)
    if not len(inside):
        raise InputError("the drawing holds no voxel")
    return inside


def entry_of(voxels: npt.NDArray[np.intp], shape: Voxel, class_id: int, positive: bool, scribble: bool) -> Entry:
    """Voxels (N, 3) of a volume of a shape (I, J, K) as a prompt: a scribble, or all of an area.

    Raises:
        InputError: some lie outside of the volume.
    """
    if scribble and len(voxels) <= SCRIBBLE_VOXELS:
        return Scribble(class_id=class_id, positive=positive, voxels=tuple(map(tuple, voxels.tolist())))
    if (voxels < 0).any() or (voxels >= np.array(shape)).any():
        raise InputError("the drawing reaches outside the volume")
    whole = np.zeros(shape, bool)
    whole[tuple(voxels.T)] = True
    return Mask.from_array(whole, class_id, positive)
