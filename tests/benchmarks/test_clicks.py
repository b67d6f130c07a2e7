"""One-click trials on errors made by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from random_models import plan_of

from benchmarks.clicks import (
    CorrectedLabels,
    Labels,
    Method,
    click_on,
    find_parts,
    rounds_of_clicks,
    sphere,
    summarize,
    summarize_rounds,
    trial,
)
from s2vnet.data.slice_grid import SliceGrid
from s2vnet.interactive.corrections import Corrections
from s2vnet.interactive.label_changes import LabelChange
from s2vnet.interactive.prompt_state import PromptState
from s2vnet.io.geometry import Geometry
from s2vnet.prompts import Point

SHAPE = (20, 20, 12)


def grid(k: float = 1) -> SliceGrid:
    """Grid of axial slices with voxels of 1 x 1 x k mm."""
    return SliceGrid.from_plan(Geometry(SHAPE, np.diag([1.0, 1, k, 1])), plan_of())


def case() -> tuple[Labels, Labels]:
    """Labels that lack a block of class 1 and hold a false block of class 2, and the truth."""
    truth = np.zeros(SHAPE, np.uint8)
    truth[2:10, 2:10, 2:8] = 1
    labels = truth.copy()
    labels[2:10, 2:10, 4:8] = 0
    labels[12:18, 12:19, 5:10] = 2
    labels[15, 2, 3] = 1  # less than the opening leaves
    return labels, truth


def test_parts_are_the_errors_that_are_wide_enough() -> None:
    labels, truth = case()
    found = {(p.class_id, p.missed): p.voxels for p in find_parts(labels, truth, 2)}
    assert set(found) == {(1, True), (2, False)}
    missed, false = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    missed[tuple(found[1, True].T)] = True
    false[tuple(found[2, False].T)] = True
    assert (truth[missed] == 1).all()
    assert (labels[missed] == 0).all()
    assert (labels[false] == 2).all()
    assert not find_parts(truth, truth, 2)


def test_the_click_lies_in_the_middle_of_the_largest_slice() -> None:
    mask = np.zeros(SHAPE, bool)
    mask[4:9, 6:11, 3] = True
    mask[4:9, 6:11, 4] = True
    mask[2:11, 4:13, 4] = True
    assert click_on(np.argwhere(mask), 2) == (6, 8, 4)


def perfect(truth: Labels) -> Callable[..., LabelChange]:
    def answer(labels: Labels, state: object, click: object, part: object) -> LabelChange:
        flat = np.flatnonzero(labels != truth)
        return LabelChange(flat, labels.reshape(-1)[flat], truth.reshape(-1)[flat])

    return answer


def ruin(labels: Labels, state: object, click: object, part: object) -> LabelChange:
    flat = np.arange(labels.size)
    return LabelChange(flat, labels.reshape(-1), np.full(labels.size, 3, np.uint8))


def test_scores_of_a_perfect_and_of_a_ruinous_answer() -> None:
    labels, truth = case()
    for part in find_parts(labels, truth, 2):
        good = trial(Method("perfect", perfect(truth)), labels, truth, part, grid(2), True)
        assert (good["slice"], good["volume"], good["right"], good["spoilt"], good["clicks"]) == (1, 1, 1, 0, 1)
        assert good["net"] >= 1
        bad = trial(Method("ruin", ruin), labels, truth, part, grid(2), False)
        assert bad["net"] < 0 < bad["spoilt"]
        assert bad["farthest_mm"] > 10


def test_a_sphere_has_the_part_s_size() -> None:
    labels, truth = case()
    part = next(p for p in find_parts(labels, truth, 2) if not p.missed)
    row = trial(Method("sphere", sphere((1, 1, 1), SHAPE)), labels, truth, part, grid(), True)
    assert 0.5 < row["volume"] <= 1
    assert row["spoilt"] == 0  # it removes its class only
    assert row["clicks"] is not None


def test_the_summary_counts_harm_and_clicks() -> None:
    row = {"slice": 1.0, "volume": 0.5, "right": 0.5, "spoilt": 0.0, "net": 0.5, "farthest_mm": 0.0, "ms": 1.0}
    rows = [{**row, "clicks": 2}, {**row, "net": -0.1, "farthest_mm": 31.0, "clicks": None}]
    summary = summarize(rows)
    assert (summary["parts"], summary["net_harm"], summary["beyond_30_mm"], summary["within_3"]) == (2, 0.5, 0.5, 0.5)
    assert summary["volume"]["median"] == pytest.approx(0.5)


class _Perfect:
    """Corrections that give each clicked class its true voxels."""

    def __init__(self, truth: Labels, grid: SliceGrid) -> None:
        self.truth, self.grid = truth, grid

    def change(self, labels: Labels, state: PromptState, click: Point) -> LabelChange:
        flat = np.flatnonzero((labels != self.truth) & ((labels == click.class_id) | (self.truth == click.class_id)))
        return LabelChange(flat, labels.reshape(-1)[flat], self.truth.reshape(-1)[flat])


def test_rounds_of_the_protocol_are_played_on_labels_that_clicks_correct() -> None:
    labels, truth = case()
    truth[12:18, 12:19, 1:3] = 2
    corrections: Corrections = _Perfect(truth, grid())  # type: ignore[assignment]
    before = labels.copy()
    played = rounds_of_clicks(corrections, labels, truth, [1, 2], 2)
    np.testing.assert_array_equal(labels, before)
    assert played["dice"][0] < played["dice"][1] == played["dice"][2] == 1
    session = CorrectedLabels(corrections, labels)
    session.add_round([Point(class_id=2, positive=True, voxel=(13, 13, 1))])
    assert session.state.prompted.keys() == {(2, True)}
    worse = {"dice": [0.5, 0.75, 0.5], "ms": 3.0}
    summary = summarize_rounds([{**played, "dice": [0.5, 1.0, 1.0]}, worse])
    assert (summary["mean"], summary["worst"]) == ([0.5, 0.875, 0.75], -0.25)
