"""Clicks on an object that starts from nothing."""

from __future__ import annotations

import numpy as np
from random_models import plan_of

from benchmarks.clicks import Labels, Method, Part
from benchmarks.unseen import ADDED, largest_error, play
from s2vnet.data.slice_grid import SliceGrid
from s2vnet.interactive.label_changes import LabelChange
from s2vnet.interactive.prompt_state import PromptState
from s2vnet.io.geometry import Geometry
from s2vnet.prompts import Point

SHAPE = (12, 12, 8)


def slice_by_slice(labels: Labels, state: PromptState, click: Point, part: Part) -> LabelChange:
    """Right on the slice of the click, and one voxel beyond it."""
    voxels = part.voxels[part.voxels[:, 2] == click.voxel[2]]
    flat = np.ravel_multi_index(tuple(voxels.T), labels.shape)
    value = ADDED if click.positive else 0
    return LabelChange(flat, labels.reshape(-1)[flat], np.full(len(flat), value, np.uint8))


def test_each_click_is_on_the_largest_error_that_is_left() -> None:
    truth = np.zeros(SHAPE, np.uint8)
    truth[2:8, 2:8, 1:5] = ADDED  # four slices of 36 voxels
    labels = np.zeros(SHAPE, np.uint8)
    labels[10, 10, 6] = ADDED  # false
    first = largest_error(labels, truth)
    assert first is not None
    assert (first.missed, len(first.voxels)) == (True, 144)
    grid = SliceGrid.from_plan(Geometry(SHAPE, np.eye(4)), plan_of())
    scores = play(Method("slices", slice_by_slice), labels, truth, grid)
    found = [36, 72, 108, 144]
    expected = [2 * n / (144 + n + 1) for n in found]
    np.testing.assert_allclose(scores, [*expected, 1.0])  # the fifth click removes the false voxel
    assert not np.array_equal(labels, truth)  # the labels that were given are left as they are
    assert largest_error(truth, truth) is None
