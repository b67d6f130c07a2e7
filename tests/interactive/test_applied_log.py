"""Labels of a log are the same whichever log came before; entries in common are computed once."""

from __future__ import annotations

import numpy as np
from example_prompts import PROMPTS

from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.applied_log import AppliedLog
from s2vnet.interactive.corrections import Corrections
from s2vnet.interactive.history import Log
from s2vnet.interactive.session import Session
from s2vnet.io.geometry import Volume


def test_logs_follow_each_other_exactly(segmenter: Segmenter, bordered: Volume) -> None:
    session, steps = Session(segmenter, bordered), []

    def corrections() -> Corrections:
        return session._load_corrections()

    start = AppliedLog(session.labels)
    before, log = start.labels.copy(), tuple(PROMPTS.values())
    whole = start.follow(log, corrections, on_step=lambda: steps.append(1))
    assert [each.entry for each in whole.entries] == list(log)
    np.testing.assert_array_equal(start.labels, before)
    count = len(steps)
    assert count >= len(log)

    shorter = whole.follow(log[:3], corrections, on_step=lambda: steps.append(1))
    np.testing.assert_array_equal(shorter.labels, start.follow(log[:3], corrections).labels)
    again = shorter.follow(log, corrections, on_step=lambda: steps.append(1))
    np.testing.assert_array_equal(again.labels, whole.labels)
    assert len(steps) == count  # undo and redo compute nothing

    other = whole.follow(log[1:], corrections)
    np.testing.assert_array_equal(other.labels, start.follow(log[1:], corrections).labels)
    np.testing.assert_array_equal(other.follow((), corrections).labels, before)
    assert again.keep_longest(shorter).undone == whole.entries


def test_changes_in_common_are_counted_once(segmenter: Segmenter, bordered: Volume) -> None:
    session = Session(segmenter, bordered)
    applied = AppliedLog(session.labels).follow(tuple(PROMPTS.values()), session._load_corrections)
    again = applied.follow(tuple(PROMPTS.values()), session._load_corrections)
    assert again.undone == again.entries == applied.entries
    assert again.nbytes == applied.nbytes > session.labels.nbytes


def test_a_log_keeps_within_its_bound_and_computes_again_what_it_dropped(
    segmenter: Segmenter, bordered: Volume
) -> None:
    session, steps = Session(segmenter, bordered), []
    log = tuple(PROMPTS.values())

    def follow(applied: AppliedLog, log: Log) -> AppliedLog:
        steps.clear()
        return applied.follow(log, session._load_corrections, on_step=lambda: steps.append(1))

    free = follow(AppliedLog(session.labels), log)
    sizes = [each.change.nbytes for each in free.entries if each.change is not None]
    assert len(sizes) == len(log)
    bound = sum(sizes[-3:])
    bounded = follow(AppliedLog(session.labels, max_changes_nbytes=bound), log)
    np.testing.assert_array_equal(bounded.labels, free.labels)
    assert [each.change is None for each in bounded.entries] == [True] * (len(log) - 3) + [False] * 3
    assert bounded.initial is not None
    assert bounded.state is not None
    assert bounded.nbytes == bounded.labels.nbytes + len(bounded.initial) + bounded.state.nbytes + bound

    np.testing.assert_array_equal(follow(bounded, log[:-1]).labels, follow(free, log[:-1]).labels)
    shorter = follow(bounded, log[:-1])
    assert not steps
    np.testing.assert_array_equal(follow(shorter, log[:2]).labels, follow(free, log[:2]).labels)
    back = follow(shorter, log[:2])
    assert len(steps) >= 2  # computed again from the initial labels
    np.testing.assert_array_equal(follow(back, log).labels, free.labels)
    np.testing.assert_array_equal(follow(back, ()).labels, session.labels)
    assert back.keep_longest(shorter).nbytes <= back.nbytes + bound
