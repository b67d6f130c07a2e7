"""Detached parts that are too small next to a class's largest one: what nnU-Net's post-processing removes, by share.

A slice network sees little of how far it is from an organ, and now and then finds it again elsewhere. Parts are
26-connected. Which share pays is for cross-validation to say (docs/decisions/007-abdomen.md).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from s2vnet.model.clustering import argmax_class
from s2vnet.utils.components import CONNECTIVITY_26

Cells = npt.NDArray[np.intp]
"""(N, 3) slice, row and column on the mask grid."""


def remove_detached_parts(scores: Tensor, share: float, named: Mapping[int, Cells] | None = None) -> Tensor:
    """Class probabilities (D, K, h, w) without their strays; `share` and `named` as in :func:`find_detached_parts`."""
    if not share:
        return scores
    winner = most_probable_class(scores)
    return suppress_detached_parts(scores, winner, find_detached_parts(winner, share, named or {}))


def most_probable_class(scores: Tensor) -> npt.NDArray[np.uint8]:
    """Most probable class (D, h, w) of probabilities (D, K, h, w)."""
    return argmax_class(scores).to(torch.uint8).cpu().numpy()


def find_detached_parts(
    winner: npt.NDArray[np.uint8], share: float, named: Mapping[int, Cells], classes: Collection[int] | None = None
) -> npt.NDArray[np.uint8]:
    """Class of every cell that belongs to a stray part, 0 elsewhere.

    Args:
        winner: (D, h, w) most probable class.
        share: parts of fewer cells than this share of the class's largest part are strays; 0 leaves all.
        named: cells that a user has named, by class; a part that holds one is none.
        classes: whose strays are wanted; of all by default.
    """
    strays = np.zeros_like(winner)
    if not share:
        return strays
    for value, box in enumerate(ndimage.find_objects(winner), start=1):
        if box is None or (classes is not None and value not in classes):
            continue
        parts, count = ndimage.label(winner[box] == value, CONNECTIVITY_26)
        if count < 2:
            continue
        sizes = np.zeros(count + 1, np.intp)
        for part in parts:  # one by one, since it is copied to eight bytes a cell
            sizes += np.bincount(part.ravel(), minlength=count + 1)
        sizes[0] = 0
        kept = sizes >= share * sizes.max()
        cells = named.get(value, np.empty((0, 3), np.intp)) - [axis.start for axis in box]
        inside = ((cells >= 0) & (cells < parts.shape)).all(1)
        kept[parts[tuple(cells[inside].T)]] = True
        kept[0] = True
        strays[box][~kept[parts]] = value
    return strays


def suppress_detached_parts(scores: Tensor, winner: npt.NDArray[np.uint8], strays: npt.NDArray[np.uint8]) -> Tensor:
    """Class probabilities (D, K, h, w) in which stray parts are background.

    A part goes with its cells' neighbours in plane, where interpolation to finer pixels would find it again; of those
    that belong to another class the others share what the part's class had.
    """
    slices = np.flatnonzero(strays.any((1, 2)))
    if not len(slices):
        return scores
    scores = scores.clone()
    for d in slices.tolist():
        for value in np.unique(strays[d][strays[d] > 0]).tolist():
            around = ndimage.binary_dilation(strays[d] == value, np.ones((3, 3), bool))
            gone = torch.from_numpy(around & ((winner[d] != value) | (strays[d] == value))).to(scores.device)
            bare = gone & torch.from_numpy((winner[d] == 0) | (winner[d] == value)).to(gone)
            left = scores[d].float()
            left[0] += torch.where(bare, left[value], 0)
            left[value] = torch.where(gone, 0, left[value])
            scores[d] = (left / left.sum(0, keepdim=True)).to(scores.dtype)
    return scores
