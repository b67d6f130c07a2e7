"""Convert drawings of clients to prompts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from s2vnet.errors import InputError
from s2vnet.prompts import Mask, Prompt, Scribble, Voxel

MAX_SCRIBBLE_VOXELS = 20_000
"""Scribbles of more voxels are converted to masks."""


def drawn_voxels(drawing: npt.NDArray[np.bool_], start: npt.ArrayLike = (0, 0, 0)) -> npt.NDArray[np.intp]:
    """Return the voxels (N, 3) of a drawing (I, J, K) that begins at `start`. Raises InputError if it is empty."""
    voxels = np.argwhere(drawing) + np.asarray(start, np.intp)
    if not len(voxels):
        raise InputError("the drawing holds no voxel")
    return voxels


def drawing_prompt(voxels: npt.NDArray[np.intp], shape: Voxel, class_id: int, positive: bool, scribble: bool) -> Prompt:
    """Convert voxels (N, 3) in a volume of a shape (I, J, K) to a prompt: a scribble, or else a mask.

    Raises:
        InputError: a mask has voxels outside the volume.
    """
    if scribble and len(voxels) <= MAX_SCRIBBLE_VOXELS:
        return Scribble(class_id=class_id, positive=positive, voxels=tuple(map(tuple, voxels.tolist())))
    if (voxels < 0).any() or (voxels >= np.array(shape)).any():
        raise InputError("the drawing reaches outside the volume")
    mask = np.zeros(shape, bool)
    mask[tuple(voxels.T)] = True
    return Mask.from_array(mask, class_id, positive)
