"""Simulated user: one click in the middle of the largest error.

After the CVPR 2025 interactive challenge, https://github.com/JunMa11/CVPR-MedSegFMCompetition (CVPR25_iter_eval.py).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from s2vnet.metrics.overlap_and_distance import Bools, Labels, Spacing, require_same_shape
from s2vnet.prompts import Point
from s2vnet.utils.components import largest_component

FalsePositiveClick = Literal["true-class", "negative"]
"""Click on a false positive: the true class there, or a negative click for the class."""

JITTER_TRIES = 10
"""Draws per click before the nearest voxel of the component is taken."""

Ints = npt.NDArray[np.integer[Any]]


def next_click(
    predicted: Labels,
    truth: Labels,
    class_id: int,
    spacing: Spacing | None = None,
    rng: np.random.Generator | None = None,
    jitter_mm: float = 0.0,
    false_positive_click: FalsePositiveClick = "true-class",
) -> Point | None:
    """Simulate the next click for one class; None if the class has no error.

    As in the challenge, false negatives and false positives form one error mask; the click lies where the distance
    (in voxels) to the outside of its largest 26-connected component is largest. The end of the volume counts as
    outside. A click on a false negative is for ``class_id``, on a false positive for the true class, background
    included.

    Args:
        predicted: (I, J, K) current result.
        truth: (I, J, K) ground truth.
        class_id: class to correct.
        spacing: voxel size in mm along i, j, k; needed for jitter only.
        rng: chooses among voxels of equal distance; by default the first in C order.
        jitter_mm: standard deviation in mm of a Gaussian shift along each axis; the click stays in the component.
        false_positive_click: ``"negative"`` clicks false positives as "not ``class_id``", as in the challenge.

    Raises:
        InputError: the shapes differ or are not three-dimensional.
        ValueError: jitter without ``spacing`` and ``rng``.
    """
    require_same_shape(predicted, truth)
    largest = largest_component((predicted == class_id) != (truth == class_id))
    if largest is None:
        return None
    component, box = largest
    center = _innermost(component, rng)
    if jitter_mm:
        if spacing is None or rng is None:
            raise ValueError("jitter needs spacing and rng")
        center = _jittered(component, center, np.asarray(spacing) / jitter_mm, rng)
    i, j, k = (int(v) + axis.start for v, axis in zip(center, box, strict=True))
    true_class = int(truth[i, j, k])
    if true_class != class_id and false_positive_click == "negative":
        return Point(class_id=class_id, positive=False, voxel=(i, j, k))
    return Point(class_id=true_class, voxel=(i, j, k))


def _innermost(component: Bools, rng: np.random.Generator | None) -> Ints:
    """Voxel (3,) of a component that is farthest from its outside."""
    depth = ndimage.distance_transform_edt(np.pad(component, 1))[1:-1, 1:-1, 1:-1]
    deepest = np.argwhere(depth == depth.max())
    voxel: Ints = deepest[0 if rng is None else int(rng.integers(len(deepest)))]
    return voxel


def _jittered(component: Bools, center: Ints, scale: npt.NDArray[np.float64], rng: np.random.Generator) -> Ints:
    """Random voxel (3,) of the component near ``center``; ``scale`` is the voxel size in units of the jitter."""
    for _ in range(JITTER_TRIES):
        drawn = np.rint(center + rng.normal(size=3) / scale).astype(np.intp)
        if np.all((drawn >= 0) & (drawn < component.shape)) and component[tuple(drawn)]:
            return drawn
    voxels = np.argwhere(component)
    nearest: Ints = voxels[(((voxels - drawn) * scale) ** 2).sum(1).argmin()]
    return nearest
