"""Overlap and surface distances of label maps, and the uncertainty of their means. Slow libraries load on first use."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from s2vnet.errors import InputError
from s2vnet.utils.components import bounding_box

NSD_TOLERANCE_MM = 2.0
"""Surfaces this close in mm count as the same (CVPR 2025 interactive challenge)."""

Labels = npt.NDArray[np.integer[Any]]
Bools = npt.NDArray[np.bool_]
Spacing = tuple[float, float, float]
Slices = tuple[slice, ...]


@dataclass(frozen=True)
class ClassMetrics:
    """Scores of one class in one case; NaN where a score is not defined."""

    dice: float
    """Dice coefficient, 0..1."""
    nsd: float
    """Normalised surface Dice, 0..1."""
    hd95: float
    """95th percentile Hausdorff distance, mm."""


def class_metrics(
    predicted: Labels,
    truth: Labels,
    class_ids: Iterable[int],
    spacing: Spacing,
    tolerance_mm: float = NSD_TOLERANCE_MM,
) -> dict[int, ClassMetrics]:
    """Dice, NSD and HD95 of each class.

    A class in neither map has NaN everywhere and is left out of means (nnU-Net's rule). A class in only one of them
    has Dice 0, NSD 0 and the diagonal of the volume in mm as HD95.

    Args:
        predicted: (I, J, K) class of each voxel.
        truth: (I, J, K) on the same grid.
        class_ids: label values to score.
        spacing: voxel size in mm along i, j, k.
        tolerance_mm: distance up to which surfaces count as the same.

    Raises:
        InputError: the shapes differ or are not three-dimensional.
    """
    require_same_shape(predicted, truth)
    diagonal = math.dist((0.0, 0.0, 0.0), [n * s for n, s in zip(truth.shape, spacing, strict=True)])
    return {c: _scores(predicted == c, truth == c, spacing, tolerance_mm, diagonal) for c in class_ids}


def dice(predicted_mask: Bools, truth_mask: Bools) -> float:
    """Dice coefficient of two boolean arrays of one shape; NaN where both are empty."""
    total = int(np.count_nonzero(predicted_mask)) + int(np.count_nonzero(truth_mask))
    return 2 * int(np.count_nonzero(predicted_mask & truth_mask)) / total if total else math.nan


def surface_dice(
    predicted_mask: Bools, truth_mask: Bools, spacing: Spacing, tolerance_mm: float = NSD_TOLERANCE_MM
) -> float:
    """Normalised surface Dice of two boolean arrays (I, J, K); NaN where both are empty, 0 where one is.

    Surface elements between voxels are weighted by their area in mm², as in https://github.com/google-deepmind/
    surface-distance, which the challenges use. The end of the volume counts as outside.
    """
    pair = _pair(predicted_mask, truth_mask)
    if pair is None:
        return math.nan if not predicted_mask.any() and not truth_mask.any() else 0.0
    from monai.metrics.surface_dice import compute_surface_dice

    with warnings.catch_warnings():
        # MONAI 1.5 and 1.6 warn about an argument that they hand to themselves
        warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)
        found = compute_surface_dice(
            *pair, [tolerance_mm], include_background=True, spacing=_floats(spacing), use_subvoxels=True
        )
    return float(found)


def hausdorff95(predicted_mask: Bools, truth_mask: Bools, spacing: Spacing) -> float:
    """Larger of the two directed 95th percentile distances in mm between boundary voxels of two masks (I, J, K).

    Distances run between voxel centres; infinite where one mask is empty, NaN where both are.
    """
    pair = _pair(predicted_mask, truth_mask)
    if pair is None:
        return math.nan if not predicted_mask.any() and not truth_mask.any() else math.inf
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)
        found = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=_floats(spacing))
    return float(found)


def bootstrap_mean(
    values: Iterable[float], seed: int = 0, resamples: int = 2000, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Mean over cases and its percentile bootstrap interval: (mean, low, high).

    NaN are left out. One value is its own interval; no value gives NaN.
    """
    known = np.array([v for v in values if not math.isnan(v)], np.float64)
    if len(known) < 2:
        only = float(known[0]) if len(known) else math.nan
        return only, only, only
    interval = stats.bootstrap(
        (known,),
        np.mean,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(known.mean()), float(interval.low), float(interval.high)


def require_same_shape(predicted: Labels, truth: Labels) -> None:
    """Raise :class:`InputError` unless both arrays are (I, J, K) of one shape."""
    if predicted.ndim != 3 or predicted.shape != truth.shape:
        raise InputError(
            f"prediction {predicted.shape} and truth {truth.shape} must be 3D on one grid; resample one onto the other"
        )


def _scores(predicted: Bools, truth: Bools, spacing: Spacing, tolerance_mm: float, diagonal: float) -> ClassMetrics:
    distance = hausdorff95(predicted, truth, spacing)
    return ClassMetrics(
        dice(predicted, truth),
        surface_dice(predicted, truth, spacing, tolerance_mm),
        diagonal if math.isinf(distance) else distance,
    )


def _pair(predicted: Bools, truth: Bools) -> tuple[Any, Any] | None:
    """Both masks as tensors (1, 1, i, j, k) cropped to what they hold together; None where one of them is empty."""
    if not predicted.any() or not truth.any():
        return None
    import torch

    box = bounding_box(predicted | truth)
    assert box is not None
    # MONAI pads what it gets by one voxel, so that surfaces at the crop's border stay closed
    first, second = (torch.from_numpy(mask[box].copy())[None, None] for mask in (predicted, truth))
    return first, second


def _floats(spacing: Spacing) -> list[float]:
    return [float(s) for s in spacing]
