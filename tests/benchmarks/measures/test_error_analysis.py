"""Error analysis on cases computed by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from benchmarks.measures.error_analysis import (
    click_effects,
    error_counts,
    error_rates,
    left_right_pairs,
    sum_counts,
)
from s2vnet.metrics.overlap_and_distance import Labels
from s2vnet.prompts import Point

NAMES = {0: "background", 1: "left kidney", 2: "right kidney", 3: "liver"}


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
