"""Removal of detached parts: 26-connected components that are small compared with the largest one of their class.

A 2D network has little context across slices, and sometimes segments an organ a second time far from it. nnU-Net's
post-processing keeps only the largest component; here the others are kept from a share of its size on, which is chosen
by cross-validation (docs/decisions/007-abdomen.md).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from s2vnet.model.clustering import argmax_class
from s2vnet.utils.components import CONNECTIVITY_26

Cells = npt.NDArray[np.intp]
"""(N, 3) slice, row and column on the mask grid."""


def remove_detached_parts(scores: Tensor, share: float, prompted: Mapping[int, Cells] | None = None) -> Tensor:
    """Class probabilities (D, K, h, w) without detached parts; arguments as of :func:`find_detached_parts`."""
    if not share:
        return scores
    labels = most_probable_class(scores)
    return suppress_detached_parts(scores, labels, find_detached_parts(labels, share, prompted))


def most_probable_class(scores: Tensor) -> npt.NDArray[np.uint8]:
    """Most probable class (D, h, w) of probabilities (D, K, h, w)."""
    return argmax_class(scores).to(torch.uint8).cpu().numpy()


def find_detached_parts(
    labels: npt.NDArray[np.uint8], share: float, prompted: Mapping[int, Cells] | None = None
) -> npt.NDArray[np.uint8]:
    """Class (D, h, w) of every cell of a detached part, 0 elsewhere.

    Args:
        labels: (D, h, w) most probable class.
        share: parts of fewer cells than this share of the class's largest part are detached; 0 for none.
        prompted: cells that prompts assign to a class, by class; a part that contains one is kept.
    """
    detached = np.zeros_like(labels)
    if not share:
        return detached
    for value, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        parts, count = ndimage.label(labels[box] == value, CONNECTIVITY_26)
        if count < 2:
            continue
        sizes = np.zeros(count + 1, np.intp)
        for part in parts:  # slice by slice, since bincount copies to eight bytes a cell
            sizes += np.bincount(part.ravel(), minlength=count + 1)
        sizes[0] = 0
        kept = sizes >= share * sizes.max()
        cells = (prompted or {}).get(value, np.empty((0, 3), np.intp)) - [axis.start for axis in box]
        inside = ((cells >= 0) & (cells < parts.shape)).all(1)
        kept[parts[tuple(cells[inside].T)]] = True
        kept[0] = True
        detached[box][~kept[parts]] = value
    return detached


def suppress_detached_parts(scores: Tensor, labels: npt.NDArray[np.uint8], detached: npt.NDArray[np.uint8]) -> Tensor:
    """Class probabilities (D, K, h, w) in which detached parts are background.

    The class is also removed from in-plane neighbours, from which interpolation to finer pixels would restore it. In
    neighbours of another class, the remaining classes share its probability.

    Args:
        scores: class probabilities (D, K, h, w).
        labels: (D, h, w) most probable class.
        detached: as :func:`find_detached_parts` returns it.
    """
    slices = np.flatnonzero(detached.any((1, 2)))
    if not len(slices):
        return scores
    scores = scores.clone()
    for d in slices.tolist():
        for value in np.unique(detached[d][detached[d] > 0]).tolist():
            dilated = ndimage.binary_dilation(detached[d] == value, np.ones((3, 3), bool))
            removed = torch.from_numpy(dilated & ((labels[d] != value) | (detached[d] == value))).to(scores.device)
            to_background = removed & torch.from_numpy((labels[d] == 0) | (labels[d] == value)).to(removed)
            rest = scores[d].float()
            rest[0] += torch.where(to_background, rest[value], 0)
            rest[value] = torch.where(removed, 0, rest[value])
            scores[d] = (rest / rest.sum(0, keepdim=True)).to(scores.dtype)
    return scores
