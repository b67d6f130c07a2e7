"""The simulated user: one click in the middle of the largest error.

After the CVPR 2025 interactive challenge, https://github.com/JunMa11/CVPR-MedSegFMCompetition (CVPR25_iter_eval.py).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from s2vnet.metrics.segmentation import Bools, Labels, Spacing, require_same_shape
from s2vnet.prompts import Point
from s2vnet.utils.components import CONNECTIVITY_26, bounding_box

FalsePositiveClick = Literal["true-class", "negative"]
"""What a click on too much of a class says: which class is there, or only that it is not this one."""

JITTER_TRIES = 10

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
    """The click that a user makes for one class, or None where the class has no error.

    As in the challenge, voxels that were missed and voxels that are too much form one error mask; the click lies
    where the distance (in voxels) to the outside of its largest 26-connected component is largest. The end of the
    volume counts as outside. A missed voxel is named as ``class_id``. On a voxel that is too much, a user of a
    multi-class tool names the class that is truly there, background included.

    Args:
        predicted: (I, J, K) current result.
        truth: (I, J, K).
        class_id: class whose error is looked for.
        spacing: voxel size in mm along i, j, k; needed for jitter only.
        rng: draws among voxels of equal distance; without it the first in C order is taken.
        jitter_mm: standard deviation in mm of a Gaussian shift along each axis; the click stays in the component.
        false_positive_click: ``"negative"`` answers too much of a class with "not ``class_id``", as the challenge does.

    Raises:
        InputError: the shapes differ or are not three-dimensional.
        ValueError: jitter without ``spacing`` and ``rng``.
    """
    require_same_shape(predicted, truth)
    found = _largest_error(predicted, truth, class_id)
    if found is None:
        return None
    component, offset = found
    centre = _centre(component, rng)
    if jitter_mm:
        if spacing is None or rng is None:
            raise ValueError("jitter needs spacing and rng")
        centre = _jittered(component, centre, np.asarray(spacing) / jitter_mm, rng)
    i, j, k = (int(v) for v in centre + offset)
    there = int(truth[i, j, k])
    if there != class_id and false_positive_click == "negative":
        return Point(class_id=class_id, positive=False, voxel=(i, j, k))
    return Point(class_id=there, voxel=(i, j, k))


def _largest_error(predicted: Labels, truth: Labels, class_id: int) -> tuple[Bools, Ints] | None:
    """Largest error component in its bounding box, and the voxel where that box starts."""
    wrong = (predicted == class_id) != (truth == class_id)
    box = bounding_box(wrong)
    if box is None:
        return None
    parts = np.asarray(ndimage.label(wrong[box], CONNECTIVITY_26)[0])
    largest = parts == int(np.bincount(parts.ravel())[1:].argmax()) + 1
    inner = bounding_box(largest)
    assert inner is not None
    return largest[inner], np.array([a.start + b.start for a, b in zip(box, inner, strict=True)])


def _centre(component: Bools, rng: np.random.Generator | None) -> Ints:
    depth = ndimage.distance_transform_edt(np.pad(component, 1))[1:-1, 1:-1, 1:-1]
    deepest = np.argwhere(depth == depth.max())
    centre: Ints = deepest[0 if rng is None else int(rng.integers(len(deepest)))]
    return centre


def _jittered(component: Bools, centre: Ints, scale: npt.NDArray[np.float64], rng: np.random.Generator) -> Ints:
    """A voxel of the component near ``centre``; ``scale`` is the voxel size in standard deviations.

    The component's box lies in the volume, so what stays in the component stays in the volume.
    """
    for _ in range(JITTER_TRIES):
        drawn = np.rint(centre + rng.normal(size=3) / scale).astype(np.intp)
        if np.all((drawn >= 0) & (drawn < component.shape)) and component[tuple(drawn)]:
            return drawn
    voxels = np.argwhere(component)
    nearest: Ints = voxels[(((voxels - drawn) * scale) ** 2).sum(1).argmin()]
    return nearest
