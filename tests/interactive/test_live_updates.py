"""Slices that are sent while a prompt is computed agree with the labels that follow."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from example_prompts import PROMPTS, SHAPE, SQUARE, Labels, plain_only

from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.live_updates import LiveUpdates
from s2vnet.interactive.session import Session
from s2vnet.interactive.voxelize import prompt_voxels
from s2vnet.io.geometry import Region, Volume
from s2vnet.prompts import Box, Lock, Point


def test_slices_are_told_of_as_they_are_done(session: Session) -> None:
    session.add(PROMPTS["point"])
    shown, regions = session.labels.copy(), []

    def watch(region: Region, block: Labels) -> None:
        regions.append(region)
        shown[region] = block

    session.apply(session.history.add(PROMPTS["scribble"], PROMPTS["lasso"]), watch)
    assert len(regions) > 1
    assert regions[0][2].start <= SQUARE[0][2] < regions[0][2].stop
    for entry in (PROMPTS["scribble"], PROMPTS["lasso"]):
        assert not isinstance(entry, Lock)
        assert (shown[tuple(prompt_voxels(entry).T)] == entry.class_id).all()
    if session.segmenter.plan.seen is None and not session.segmenter.plan.smallest_part:
        np.testing.assert_array_equal(shown, session.labels)
    changed = np.zeros(SHAPE, bool)
    for region in regions:
        changed[region] = True
    assert changed[shown != session.labels].all()


def test_locked_classes_are_told_of_as_they_stay(session: Session) -> None:
    session.lock(2)
    locked = session.labels == 2

    def watch(region: Region, block: Labels) -> None:
        assert (block[locked[region]] == 2).all()

    session.apply(session.history.add(PROMPTS["scribble"]), watch)


def test_the_automatic_result_is_told_of(segmenter: Segmenter, bordered: Volume) -> None:
    shown = np.zeros(SHAPE, np.uint8)

    def watch(region: Region, block: Labels) -> None:
        shown[region] = block

    session = Session(segmenter, bordered, on_slice=watch)
    if segmenter.plan.seen is None and not segmenter.plan.smallest_part:
        np.testing.assert_array_equal(shown, session.labels)


def test_a_box_outside_of_the_crop_is_told_of_too(session: Session, labels_of: Callable[..., Labels]) -> None:
    beyond = Box(class_id=1, start=(0, 0, 0), stop=(1, 1, 1))
    told: list[Region] = []
    session.apply(session.history.add(PROMPTS["point"], beyond), lambda region, block: told.append(region))
    assert told
    np.testing.assert_array_equal(session.labels, labels_of(PROMPTS["point"], beyond))


@plain_only
def test_the_first_slice_is_the_newest_prompt_s_or_the_middle_one(session: Session) -> None:
    grid = session._grid
    assert LiveUpdates(grid, lambda region, block: None).newest == grid.depth // 2
    prompts = [Point(class_id=1, voxel=(9, 9, index)) for index in (4, 7)]
    newest = round(float(grid.voxels_to_pixels([[9, 9, 7]])[0, 0]))
    assert LiveUpdates(grid, lambda region, block: None, tuple(prompts)).newest == newest
