"""Calibration on cases computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.measures.calibration import (
    BINS,
    MARGIN,
    calibration_bins,
    calibration_error,
    slice_rank_correlation,
)


def test_calibration_error_is_the_mean_gap_between_confidence_and_accuracy() -> None:
    predicted = np.ones((1, 1, 6), int)
    truth = np.array([[[1, 1, 1, 2, 1, 2]]])  # right, right, right, wrong; right, wrong
    confidence = np.array([[[0.9, 0.9, 0.9, 0.9, 0.5, 0.5]]])
    bins = calibration_bins(confidence, predicted, truth)
    assert sum(bins["voxels"]) == 6
    assert calibration_error(bins) == pytest.approx((4 * abs(0.9 - 3 / 4) + 2 * abs(0.5 - 1 / 2)) / 6)


def test_calibration_is_restricted_to_organs_and_includes_confidence_one() -> None:
    truth = np.zeros((1, 1, 40), int)
    truth[..., 20] = 1
    bins = calibration_bins(np.ones(truth.shape), truth, truth)
    assert bins["voxels"] == [0] * (BINS - 1) + [2 * MARGIN + 1]
    assert calibration_error(bins) == 0
    assert math.isnan(
        calibration_error(calibration_bins(np.ones((2, 2, 2)), np.zeros((2, 2, 2), int), truth[..., :2] * 0))
    )


def test_rank_correlation_of_uncertainty_and_error() -> None:
    truth = np.zeros((4, 5, 5), int)
    predicted = truth.copy()
    for d in range(4):
        predicted[d].flat[: 3 * d] = 1
    uncertainty = np.arange(4.0)[:, None, None] * np.ones((4, 5, 5))
    assert slice_rank_correlation(uncertainty**3, predicted, truth) == pytest.approx(1)
    assert slice_rank_correlation(-uncertainty, predicted, truth) == pytest.approx(-1)
    assert math.isnan(slice_rank_correlation(uncertainty, truth, truth))
