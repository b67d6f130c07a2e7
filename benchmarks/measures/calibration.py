"""Calibration of class probabilities, and how well uncertainty ranks slices by error."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage, stats

from s2vnet.metrics.overlap_and_distance import Labels

BINS = 15
MARGIN = 3
"""Voxels around the foreground that are included. Air around the patient, where every network is rightly confident,
would hide any calibration error."""

Floats = npt.NDArray[np.floating[Any]]


def calibration_bins(confidence: Floats, predicted: Labels, truth: Labels) -> dict[str, list[float]]:
    """Count voxels, sum confidence and count correct voxels per bin of confidence.

    Only the union of predicted and true foreground, dilated by MARGIN voxels, is evaluated. Sums of several cases can
    be added.

    Args:
        confidence: (I, J, K) probability of the predicted class.
        predicted: (I, J, K).
        truth: (I, J, K).
    """
    region = ndimage.binary_dilation((predicted > 0) | (truth > 0), iterations=MARGIN)
    values, correct = confidence[region].astype(np.float64), (predicted == truth)[region]
    index = np.minimum((values * BINS).astype(int), BINS - 1)
    weights = {"voxels": None, "confidence": values, "right": correct.astype(np.float64)}
    return {key: np.bincount(index, w, minlength=BINS).astype(float).tolist() for key, w in weights.items()}


def calibration_error(bins: Mapping[str, Sequence[float]]) -> float:
    """Expected calibration error: mean over voxels of the gap between a bin's confidence and accuracy."""
    voxels, confidence, correct = (np.asarray(bins[key]) for key in ("voxels", "confidence", "right"))
    return float(np.abs(confidence - correct).sum() / voxels.sum()) if voxels.sum() else math.nan


def slice_rank_correlation(uncertainty: Floats, predicted: Labels, truth: Labels) -> float:
    """Spearman's correlation over slices (D, H, W) of mean uncertainty and error rate; NaN without errors."""
    error_rate = (predicted != truth).mean((1, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        return float(stats.spearmanr(uncertainty.mean((1, 2)), error_rate).statistic)
