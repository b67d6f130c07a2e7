"""A history is a value: every operation leaves the one before as it was."""

from __future__ import annotations

import pytest

from s2vnet.errors import InputError
from s2vnet.interactive.history import History
from s2vnet.prompts import Lock, Point

A, B, C = Point(class_id=1, voxel=(0, 0, 0)), Point(class_id=2, voxel=(1, 0, 0)), Lock(class_id=1)


def test_undo_and_redo_without_limit() -> None:
    steps = [History()]
    for n in range(100):
        steps.append(steps[-1].add(Point(class_id=1, voxel=(n, 0, 0))))
    back = steps[-1]
    for expected in steps[-2::-1]:
        back = back.undo()
        assert back.log == expected.log
    assert back.undo() is back
    for expected in steps[1:]:
        back = back.redo()
        assert back.log == expected.log
    assert back.redo() is back
    assert back == steps[-1]


def test_a_new_operation_ends_the_way_on() -> None:
    assert History().add(A).undo().add(B).undone == ()


def test_a_round_is_one_operation() -> None:
    assert History().add(A, B).undo().log == ()


def test_any_entry_can_be_taken_out_and_comes_back() -> None:
    history = History().add(A).add(B).add(C).remove(1)
    assert history.log == (A, C)
    assert history.undo().log == (A, B, C)


@pytest.mark.parametrize("index", [-1, 2])
def test_what_is_not_there_cannot_be_taken_out(index: int) -> None:
    with pytest.raises(InputError, match=f"no prompt number {index}; the log has 2"):
        History().add(A, B).remove(index)
