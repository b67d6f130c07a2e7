"""What a log says of voxels is kept by class and sign, and its size does not grow with repeated prompts."""

from __future__ import annotations

import numpy as np
import pytest
from example_prompts import PROMPTS, SHAPE, mask_of
from random_models import plan_of

from s2vnet.data.slice_grid import SliceGrid
from s2vnet.interactive.prompt_state import PromptState, flat_indices, voxels_to_pixels
from s2vnet.interactive.voxelize import prompt_voxels
from s2vnet.io.geometry import Geometry
from s2vnet.prompts import Box, Entry, Extent, Lasso, Lock, Mask, Point


@pytest.fixture
def grid() -> SliceGrid:
    geometry = Geometry(SHAPE, np.diag([0.8, 1.1, 2.5, 1.0]))
    return SliceGrid.from_plan(geometry, plan_of(), (2, 2, 2), (9, 14, 16))


def state_of(grid: SliceGrid, *entries: Entry) -> PromptState:
    state = PromptState()
    for entry in entries:
        state = state.add(entry, grid)
    return state


def flat(*voxels: tuple[int, int, int]) -> list[int]:
    return sorted(int(np.ravel_multi_index(v, SHAPE)) for v in voxels)


def test_voxels_are_kept_by_class_and_sign(grid: SliceGrid) -> None:
    one, two = Point(class_id=1, voxel=(5, 9, 4)), Point(class_id=1, voxel=(6, 9, 4))
    denial, other = Point(class_id=1, voxel=(7, 9, 4), positive=False), Point(class_id=2, voxel=(8, 9, 4))
    state = state_of(grid, one, two, denial, other)
    assert state.prompted[1, True].voxels.tolist() == flat((5, 9, 4), (6, 9, 4))
    kept = {sign: sorted(int(v) for each in state.kept(1, sign) for v in each) for sign in (True, False)}
    assert kept[True] == flat((5, 9, 4), (6, 9, 4), (7, 9, 4), (8, 9, 4))
    assert kept[False] == flat((5, 9, 4), (6, 9, 4), (8, 9, 4))
    assert [(c, v.tolist()) for c, v in state.denied()] == [(1, flat((7, 9, 4)))]
    assert len(state.agreeing_pixels(1, True)) == 2
    assert len(state.contradicting_pixels(1, True)) == 2  # "not 1", and "2"
    assert len(state.contradicting_pixels(1, False)) == 2  # "1" twice; "2" does not say that it is 1
    assert len(state.agreeing_pixels(2, False)) == len(state.contradicting_pixels(0, False)) == 0


def test_repeated_prompts_take_no_memory(grid: SliceGrid) -> None:
    prompts = [entry for entry in PROMPTS.values() if not isinstance(entry, Lock)]
    assert state_of(grid, *prompts * 5).nbytes == state_of(grid, *prompts).nbytes > 0


def test_boxes_bound_and_do_not_prompt_their_voxels(grid: SliceGrid) -> None:
    box = Box(class_id=1, start=(3, 4, 3), stop=(5, 6, 5))
    assert not state_of(grid, box).prompted
    denied = state_of(grid, box.model_copy(update={"positive": False})).denied()
    assert len(denied[0][1]) == 8


def test_an_extent_replaces_what_was_said_of_its_class(grid: SliceGrid) -> None:
    extent = Extent.from_array(mask_of((4, 6), (4, 6), (4, 6)), 2)
    state = state_of(grid, PROMPTS["lasso"], PROMPTS["scribble"], extent)
    assert state.prompted.keys() == {(1, True)}
    assert not state.outlines


def test_the_last_outline_of_a_class_is_known(grid: SliceGrid) -> None:
    lasso, mask = PROMPTS["lasso"], Mask.from_array(mask_of((4, 6), (4, 6), (4, 5)), 2)
    assert isinstance(lasso, Lasso)
    assert state_of(grid, lasso, PROMPTS["point"]).outlines == {2: lasso}
    assert state_of(grid, lasso, mask).outlines == {2: mask}


def test_classes_are_locked_and_unlocked(grid: SliceGrid) -> None:
    assert state_of(grid, Lock(class_id=1), Lock(class_id=2), Lock(class_id=1, locked=False)).locked == {2}


def test_pixels_hold_the_voxels_inside_the_crop(grid: SliceGrid) -> None:
    voxels = np.array([[0, 0, 0], [5, 9, 4], [5, 9, 4], [15, 17, 10], [17, 19, 12]])
    pixels = voxels_to_pixels(grid, voxels)
    assert len(pixels) == 2
    assert ((pixels >= 0) & (pixels < [grid.depth, *grid.padded])).all()
    expected = np.rint(grid.voxels_to_pixels(voxels[[1, 3]])).astype(int)
    np.testing.assert_array_equal(pixels, expected[np.lexsort(expected.T[::-1])])


def test_flat_indices_rise_and_are_unique() -> None:
    voxels = prompt_voxels(Box(class_id=1, start=(3, 4, 3), stop=(5, 6, 5)))
    found = flat_indices(np.concatenate([voxels[::-1], voxels]), SHAPE)
    assert (np.diff(found) > 0).all()
    assert len(found) == len(voxels)
