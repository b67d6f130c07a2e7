"""Entries are checked where they stand in the log."""

from __future__ import annotations

import numpy as np
import pytest
from example_prompts import PROMPTS, SHAPE

from s2vnet.errors import InputError
from s2vnet.interactive.check_entries import check_entries, check_new_class, new_class, valid_entries, validation_errors
from s2vnet.prompts import Extent, Lock, NewClass, Point

NAMES = {0: "background", 1: "left part", 2: "right"}
LESION, CLICK = NewClass(class_id=3, name="lesion"), Point(class_id=3, voxel=(1, 2, 3))


def test_entries_of_known_classes_inside_the_volume_are_accepted() -> None:
    check_entries(PROMPTS.values(), NAMES, SHAPE)
    check_entries([LESION, CLICK, Lock(class_id=3)], NAMES, SHAPE)
    assert 3 not in NAMES


def test_a_class_must_be_added_before_it_is_prompted() -> None:
    with pytest.raises(InputError, match="no class 3"):
        check_entries([CLICK, LESION], NAMES, SHAPE)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (NewClass(class_id=2, name="lesion"), "there is a class 2 already; new classes start at 3"),
        (NewClass(class_id=5, name="Right"), "there is a class 'Right' already"),
    ],
)
def test_a_class_is_added_once(entry: NewClass, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_new_class(entry, NAMES)
    with pytest.raises(InputError, match="there is a class 3 already"):
        check_entries([LESION, LESION], NAMES, SHAPE)
    with pytest.raises(InputError, match="there is a class 'Right' already"):
        new_class("Right", NAMES)


def test_entries_that_do_not_hold_are_left_out_with_those_that_need_them() -> None:
    outside = CLICK.model_copy(update={"voxel": (99, 0, 0)})
    twice = LESION.model_copy(update={"name": "other"})
    assert valid_entries((LESION, outside, twice, CLICK), NAMES, SHAPE) == (LESION, CLICK)
    assert valid_entries((CLICK, LESION), NAMES, SHAPE) == (LESION,)


def test_a_prompt_that_is_none_is_one_line() -> None:
    with pytest.raises(InputError, match="point prompt: ") as error, validation_errors():
        Point(class_id=-1, voxel=(0, 0, 0))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [SHAPE, (99, 20, 13)])
def test_an_extent_is_checked_as_a_mask(shape: tuple[int, int, int]) -> None:
    extent = Extent.from_array(np.ones(shape, bool), 1)
    damaged = extent.model_copy(update={"bits": "AAAA"})
    for entry, message in ((extent, "extent prompt reaches outside"), (damaged, "mask prompt is damaged")):
        if shape == SHAPE and entry is extent:
            check_entries([entry], NAMES, SHAPE)
        elif entry is extent or shape == SHAPE:
            with pytest.raises(InputError, match=message):
                check_entries([entry], NAMES, SHAPE)
