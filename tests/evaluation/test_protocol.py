"""Rounds of simulated clicks with sessions whose answers are known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from s2vnet.errors import InputError
from s2vnet.evaluation.protocol import auc, clicks_to_reach, run_click_rounds
from s2vnet.io.geometry import LabelMap, Volume
from s2vnet.metrics.overlap_and_distance import class_metrics
from s2vnet.prompts import Point

Labels = npt.NDArray[np.uint8]


class Brush:
    """Session that paints a cube of 5 voxels around each click, in the image's own array."""

    def __init__(self, labels: Labels) -> None:
        self.labels: Labels = labels.copy()
        self.rounds: list[list[Point]] = []

    def add_round(self, points: Sequence[Point]) -> None:
        self.rounds.append(list(points))
        for point in points:
            value = point.class_id if point.positive else 0
            self.labels[tuple(slice(max(v - 2, 0), v + 3) for v in point.voxel)] = value


class Oracle(Brush):
    """Session that knows the truth after one round."""

    def __init__(self, labels: Labels, truth: Labels) -> None:
        super().__init__(labels)
        self._truth = truth

    def add_round(self, points: Sequence[Point]) -> None:
        super().add_round(points)
        self.labels = self._truth


def test_round_zero_is_automatic_and_clicks_help(phantom: tuple[Volume, LabelMap]) -> None:
    truth, spacing = phantom[1].data, phantom[1].geometry.spacing
    start = np.where(truth == 1, 1, 0).astype(np.uint8)
    session = Brush(start)
    scores = run_click_rounds(session, truth, [1, 2], spacing)
    expected = class_metrics(start, truth, [1, 2], spacing)
    assert scores.dice[0] == {c: expected[c].dice for c in (1, 2)} == {1: 1.0, 2: 0.0}
    assert scores.nsd[0] == {c: expected[c].nsd for c in (1, 2)}
    last = class_metrics(session.labels, truth, [1, 2], spacing)
    assert scores.dice[5] == {c: last[c].dice for c in (1, 2)}
    assert min(d[2] for d in scores.dice[1:]) > 0.5
    assert scores.clicks == [[], *session.rounds]
    assert [len(x) for x in (scores.dice, scores.nsd, scores.clicks, scores.seconds_per_round)] == [6, 6, 6, 5]
    assert all(s >= 0 for s in scores.seconds_per_round)


def test_one_click_per_class_from_one_result(phantom: tuple[Volume, LabelMap]) -> None:
    truth = phantom[1].data
    session = Brush(np.zeros_like(truth, np.uint8))
    run_click_rounds(session, truth, [0, 1, 2, 7], (1.0, 1.0, 1.0), rounds=1)
    (clicks,) = session.rounds
    assert [click.class_id for click in clicks] == [1, 2]
    assert all(truth[click.voxel] == click.class_id for click in clicks)


def test_rounds_without_error_repeat_the_result(phantom: tuple[Volume, LabelMap]) -> None:
    truth = phantom[1].data.astype(np.uint8)
    session = Oracle(np.zeros_like(truth), truth)
    scores = run_click_rounds(session, truth, [1, 2], (1.0, 1.0, 1.0), rounds=3)
    assert [d[1] for d in scores.dice] == [0, 1, 1, 1] == [n[1] for n in scores.nsd]
    assert len(session.rounds) == len(scores.seconds_per_round) == 1
    assert scores.clicks[2:] == [[], []]


def test_only_classes_in_the_truth_are_scored() -> None:
    truth = np.zeros((6, 6, 6), np.uint8)
    session = Brush(np.ones_like(truth))
    scores = run_click_rounds(session, truth, [1], (1.0, 1.0, 1.0), rounds=2)
    assert scores.dice == [{}, {}, {}]
    assert session.rounds == []


def test_a_click_shared_by_classes_is_added_once() -> None:
    """Where class 1 lies in place of 2, both classes ask for the same voxel to be 2."""
    truth = np.zeros((9, 9, 9), np.uint8)
    truth[2:7, 2:7, 2:7], truth[8, 8, 8] = 2, 1
    start = np.where(truth == 2, 1, truth)
    session = Brush(start)
    run_click_rounds(session, truth, [1, 2], (1.0, 1.0, 1.0), rounds=1)
    assert session.rounds == [[Point(class_id=2, voxel=(4, 4, 4))]]
    challenge = Brush(start)
    run_click_rounds(challenge, truth, [1, 2], (1.0, 1.0, 1.0), rounds=1, false_positive_click="negative")
    assert [(p.class_id, p.positive) for p in challenge.rounds[0]] == [(1, False), (2, True)]


def test_same_seed_same_clicks(phantom: tuple[Volume, LabelMap]) -> None:
    truth = phantom[1].data
    runs = []
    for seed in (1, 1, 2):
        session = Brush(np.zeros_like(truth, np.uint8))
        runs.append(run_click_rounds(session, truth, [1, 2], (0.8, 1.1, 2.5), jitter_mm=2.0, seed=seed).clicks)
    assert runs[0] == runs[1] != runs[2]


def test_shapes_must_agree() -> None:
    with pytest.raises(InputError, match="one grid"):
        run_click_rounds(Brush(np.zeros((4, 4, 4), np.uint8)), np.zeros((4, 4, 5), np.uint8), [1], (1.0, 1.0, 1.0))


def test_auc_is_unnormalized_and_leaves_round_zero_out() -> None:
    assert auc([0, 1, 1, 1, 1, 1]) == 4
    assert auc([1, 0, 0.5, 1, 1, 1]) == pytest.approx(0.25 + 0.75 + 1 + 1)
    assert math.isnan(auc([math.nan] * 6))


def test_clicks_to_reach() -> None:
    curve = [0.5, 0.8, 0.9, 0.85]
    assert [clicks_to_reach(curve, t) for t in (0.4, 0.5, 0.8, 0.81, 0.95)] == [0, 0, 1, 2, None]
