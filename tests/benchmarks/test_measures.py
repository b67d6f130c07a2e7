"""Measures on cases computed by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from benchmarks.measures.calibration import (
    BINS,
    MARGIN,
    calibration_bins,
    calibration_error,
    slice_rank_correlation,
)
from benchmarks.measures.error_analysis import (
    click_effects,
    error_counts,
    error_rates,
    left_right_pairs,
    sum_counts,
)
from s2vnet.metrics.segmentation import Labels
from s2vnet.prompts import Point

NAMES = {0: "background", 1: "left kidney", 2: "right kidney", 3: "liver"}


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


class _SideEffects:
    """A click corrects its organ, and removes two voxels of another."""

    def __init__(self, labels: Labels, truth: Labels) -> None:
        self.labels, self.truth = labels.copy(), truth

    def add_round(self, points: Sequence[Point]) -> None:
        (point,) = points
        self.labels[self.truth == point.class_id] = point.class_id
        other = 3 - point.class_id
        self.labels.flat[np.flatnonzero(self.labels == other)[:2]] = 0


def test_click_effects_on_other_organs() -> None:
    truth = np.zeros((1, 4, 8), int)
    truth[0, :, :2], truth[0, :, 6:] = 1, 2
    start = truth.copy()
    start[0, :2, :2] = 0  # class 1 has 4 of 8 voxels: Dice 2/3
    first, second = click_effects(_SideEffects(start, truth), truth, [1, 2], (1, 1, 1))
    assert first == {"class": 1, "prompted": pytest.approx(1 / 3)} | {
        key: pytest.approx(12 / 14 - 1) for key in ("others", "worst")
    }
    assert second["class"] == 2
    assert second["prompted"] == pytest.approx(1 - 12 / 14)


def test_organ_without_error_is_not_clicked() -> None:
    truth = np.ones((2, 2, 2), int)
    assert click_effects(_SideEffects(truth, truth), truth, [1, 2], (1, 1, 1)) == []


def test_left_right_pairs_differ_only_by_side() -> None:
    assert left_right_pairs(NAMES) == {1: 2, 2: 1}
    assert left_right_pairs({1: "Head_of_femur_L", 2: "Head_of_femur_R", 3: "adrenal", 4: "left lung"}) == {1: 2, 2: 1}


def test_error_rates_by_place() -> None:
    truth = np.zeros((10, 2, 4), int)
    truth[2:5, :, 0], truth[2:5, :, 3] = 1, 2
    predicted = truth.copy()
    predicted[2, 0, 0] = 2  # a voxel of the left labelled right, on the left's first slice
    predicted[9, 0, 1] = 1  # a false positive
    rates = error_rates(error_counts(predicted, truth, NAMES))
    assert rates["twins"] == {"left kidney": 1 / 6, "right kidney": 0}
    assert rates["false"]["left kidney"] == 1 / 7
    assert rates["false"]["liver"] == 0
    assert rates["ends"]["left kidney"][:2] == [pytest.approx(2 * 3 / 7), 1]
    assert "liver" not in rates["ends"]
    assert rates["parts"]["left kidney"][1:3] == [pytest.approx(2 * 3 / 7), 1]
    assert rates["parts"]["left kidney"][4] == 0
    assert math.isnan(rates["parts"]["liver"][0])


def test_counts_are_summed_before_division() -> None:
    one, other = {"a": {"x": [1, 4]}}, {"a": {"x": [0, 1], "y": [1, 1]}}
    assert error_rates(sum_counts([one, other])) == {"a": {"x": 1 / 5, "y": 1}}
