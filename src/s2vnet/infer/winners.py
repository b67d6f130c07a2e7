"""Most probable class of every pixel of the file's slices, from probabilities on the mask grid."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from s2vnet.data.preprocess import Restore
from s2vnet.model.clustering import strongest


def winners(restore: Restore, probabilities: Tensor) -> npt.NDArray[np.uint8]:
    """Most probable class (n, H, W) on source pixels, of class probabilities (n, K, h, w) of the file's slices.

    A class that no cell of a slice gives its share, one in K, cannot win between cells either, since what lies between
    is a mean of cells and some class has that share everywhere; so most classes of most slices need not be resampled.
    """
    return np.stack([_winner(restore, one) for one in probabilities])


def _winner(restore: Restore, probabilities: Tensor) -> npt.NDArray[np.uint8]:
    some = probabilities.flatten(1).amax(1) > 0.9 / len(probabilities)  # rounded, they need not sum to one
    some[0] = True
    able = some.nonzero()[:, 0]
    if len(able) == 1:
        return np.zeros(restore.size[1:], np.uint8)
    won = strongest(restore.to_source(probabilities[able][None]))[0]
    found: npt.NDArray[np.uint8] = able.to(torch.uint8)[won].cpu().numpy()
    return found
