"""Slices that are sent while a prompt is computed agree with the labels that follow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
from example_prompts import PROMPTS, SHAPE, Labels

from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.io.geometry import Region, Volume
from s2vnet.prompts import Box, Mask


def test_slices_are_told_of_as_they_are_done(session: Session) -> None:
    session.add(PROMPTS["point"])
    shown, regions = session.labels.copy(), []

    def watch(region: Region, block: Labels) -> None:
        regions.append(region)
        shown[region] = block

    session.apply(session.history.add(PROMPTS["scribble"], PROMPTS["lasso"]), watch)
    assert regions
    np.testing.assert_array_equal(shown, session.labels)


def test_a_prompt_s_own_slice_is_told_of_first(session: Session) -> None:
    axis, told = session.plane, []
    mask = session.labels == 1
    mask[:, :, 8:] = False
    prompt = Mask.from_array(mask, 2)
    session.apply(session.history.add(prompt), lambda region, block: told.append(region))
    own = int(np.median([prompt.start[axis], prompt.stop[axis] - 1]))
    assert told[0][axis] == slice(own, own + 1)


def test_locked_classes_are_told_of_as_they_stay(session: Session) -> None:
    session.lock(2)
    locked = session.labels == 2

    def watch(region: Region, block: Labels) -> None:
        assert (block[locked[region]] == 2).all()

    session.apply(session.history.add(PROMPTS["scribble"]), watch)


def test_the_automatic_result_is_told_of(segmenter: Segmenter, bordered: Volume) -> None:
    shown, told = np.zeros(SHAPE, np.uint8), Counter[str]()

    def watch(region: Region, block: Labels) -> None:
        shown[region] = block
        told[str(region)] += 1

    session = Session(segmenter, bordered, on_slice=watch)
    assert set(told.values()) == {2}  # by itself, and after both sweeps
    if segmenter.plan.seen is None and not segmenter.plan.smallest_part:
        np.testing.assert_array_equal(shown, session.labels)


def test_a_box_outside_of_the_crop_is_told_of_too(session: Session, labels_of: Callable[..., Labels]) -> None:
    beyond = Box(class_id=1, start=(0, 0, 0), stop=(1, 1, 1))
    told: list[Region] = []
    session.apply(session.history.add(PROMPTS["point"], beyond), lambda region, block: told.append(region))
    assert told
    np.testing.assert_array_equal(session.labels, labels_of(PROMPTS["point"], beyond))
