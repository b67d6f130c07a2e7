"""Labels of a log are the same whichever log came before; entries in common are computed once."""

from __future__ import annotations

import numpy as np
from example_prompts import PROMPTS

from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.applied_log import AppliedLog
from s2vnet.interactive.corrections import Corrections
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
