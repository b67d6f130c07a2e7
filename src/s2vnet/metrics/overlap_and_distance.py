"""Dice, surface distances and bootstrap intervals for label maps. Slow libraries are imported on first use."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
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
    """Normalized surface Dice, 0..1."""
    hd95: float
    """95th percentile Hausdorff distance, mm."""


def class_metrics(
    predicted: Labels,
    truth: Labels,
    class_ids: Iterable[int],
    spacing: Spacing,
    tolerance_mm: float = NSD_TOLERANCE_MM,
) -> dict[int, ClassMetrics]:
    """Compute Dice, NSD and HD95 of each class.

    Scores of a class in neither map are NaN and are left out of means (as in nnU-Net). A class in only one of them
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


def region_metrics(
    predicted: Labels,
    truth: Labels,
    regions: Mapping[str, Sequence[int]],
    spacing: Spacing,
    tolerance_mm: float = NSD_TOLERANCE_MM,
) -> dict[str, ClassMetrics]:
    """Compute the metrics of unions of classes, as :func:`class_metrics` does of classes.

    Args:
        predicted: (I, J, K) class of each voxel.
        truth: (I, J, K) on the same grid.
        regions: label values by name of a region.
        spacing: voxel size in mm along i, j, k.
        tolerance_mm: distance up to which surfaces count as the same.

    Raises:
        InputError: the shapes differ or are not three-dimensional.
    """
    found = {}
    for name, values in regions.items():
        union, true_union = (np.isin(labels, list(values)).astype(np.uint8) for labels in (predicted, truth))
        found[name] = class_metrics(union, true_union, [1], spacing, tolerance_mm)[1]
    return found


def dice(predicted_mask: Bools, truth_mask: Bools) -> float:
    """Compute the Dice coefficient of two masks of one shape; NaN if both are empty."""
    total = int(np.count_nonzero(predicted_mask)) + int(np.count_nonzero(truth_mask))
    return 2 * int(np.count_nonzero(predicted_mask & truth_mask)) / total if total else math.nan


def surface_dice(
    predicted_mask: Bools, truth_mask: Bools, spacing: Spacing, tolerance_mm: float = NSD_TOLERANCE_MM
) -> float:
    """Compute the normalized surface Dice of two masks (I, J, K); NaN if both are empty, 0 if one is.

    Surface elements between voxels are weighted by their area in mm², as in https://github.com/google-deepmind/
    surface-distance, which the challenges use. The end of the volume counts as outside.
    """
    pair = _cropped_pair(predicted_mask, truth_mask)
    if pair is None:
        return math.nan if not predicted_mask.any() and not truth_mask.any() else 0.0
    from monai.metrics.surface_dice import compute_surface_dice

    with warnings.catch_warnings():
        # MONAI 1.5 and 1.6 warn about an argument that they pass themselves
        warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)
        score = compute_surface_dice(
            *pair, [tolerance_mm], include_background=True, spacing=_floats(spacing), use_subvoxels=True
        )
    return float(score)


def hausdorff95(predicted_mask: Bools, truth_mask: Bools, spacing: Spacing) -> float:
    """Compute the larger of the two directed 95th percentile surface distances in mm of two masks (I, J, K).

    Distances are between centres of boundary voxels; infinite if one mask is empty, NaN if both are.
    """
    pair = _cropped_pair(predicted_mask, truth_mask)
    if pair is None:
        return math.nan if not predicted_mask.any() and not truth_mask.any() else math.inf
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)
        distance = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=_floats(spacing))
    return float(distance)


def bootstrap_mean(
    values: Iterable[float], seed: int = 0, resamples: int = 2000, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Compute the mean and its percentile bootstrap interval: (mean, low, high).

    NaN values are left out. The interval of a single value is that value; without values all are NaN.
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


def _cropped_pair(predicted: Bools, truth: Bools) -> tuple[Any, Any] | None:
    """Both masks as tensors (1, 1, i, j, k) cropped to the bounding box of their union; None if one is empty."""
    if not predicted.any() or not truth.any():
        return None
    import torch

    box = bounding_box(predicted | truth)
    assert box is not None
    # MONAI pads by one voxel, so surfaces at the border of the crop stay closed
    first, second = (torch.from_numpy(mask[box].copy())[None, None] for mask in (predicted, truth))
    return first, second


def _floats(spacing: Spacing) -> list[float]:
    return [float(s) for s in spacing]
