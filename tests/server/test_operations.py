"""Operations change a history, or return the same object."""

from __future__ import annotations

import pytest

from s2vnet.errors import InputError
from s2vnet.interactive.history import History
from s2vnet.prompts import Mask, NewClass, Point, Scribble
from s2vnet.server.operations import MAX_SCRIBBLE_VOXELS, apply_operation, check_log
from s2vnet.server.schemas import Add, Remove, Replace, Step

FIRST, SECOND = Point(class_id=1, voxel=(1, 2, 3)), Point(class_id=2, voxel=(4, 5, 6))


def test_operations_change_the_log_and_can_be_undone() -> None:
    added = apply_operation(History(), Add(entries=(FIRST, SECOND)))
    removed = apply_operation(added, Remove(index=0))
    replaced = apply_operation(removed, Replace(entries=(FIRST,)))
    reset = apply_operation(replaced, Step(op="reset"))
    assert [h.log for h in (added, removed, replaced, reset)] == [(FIRST, SECOND), (SECOND,), (FIRST,), ()]
    undone = apply_operation(reset, Step(op="undo"))
    assert undone.log == (FIRST,)
    assert apply_operation(undone, Step(op="redo")).log == ()


def test_operations_without_an_effect_return_the_same_history() -> None:
    empty, history = History(), History((FIRST,))
    for op in ("undo", "redo", "reset"):
        assert apply_operation(empty, Step(op=op)) is empty  # type: ignore[arg-type]
    assert apply_operation(history, Replace(entries=(FIRST,))) is history


def test_an_index_outside_the_log_is_refused() -> None:
    with pytest.raises(InputError):
        apply_operation(History((FIRST,)), Remove(index=1))


def test_a_log_is_checked_for_classes_and_size() -> None:
    check_log((FIRST, SECOND), (0, 1, 2))
    with pytest.raises(InputError, match="no class 2; the model knows 0 to 1"):
        check_log((FIRST, SECOND), (0, 1))
    large = Mask(class_id=1, start=(0, 0, 0), stop=(400, 400, 400), bits="AAAA")
    with pytest.raises(InputError, match="prompts of more than 33554432 voxels together"):
        check_log((large,), (0, 1))


def test_scribbles_are_limited_together() -> None:
    half = Scribble(class_id=1, voxels=((0, 0, 0),) * (MAX_SCRIBBLE_VOXELS // 2))
    check_log((half, half), (0, 1))
    with pytest.raises(InputError, match="send large ones as masks"):
        check_log((half, half, Scribble(class_id=1, voxels=((0, 0, 0),))), (0, 1))


def test_a_class_is_added_once() -> None:
    lesion, click = NewClass(class_id=3, name="lesion"), Point(class_id=3, voxel=(1, 2, 3))
    check_log((lesion, click), (0, 1, 2))
    for log in ((lesion, lesion), (NewClass(class_id=2, name="lesion"),)):
        with pytest.raises(InputError, match=r"there is a class \d already"):
            check_log(log, (0, 1, 2))
