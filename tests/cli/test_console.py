from __future__ import annotations

import time

import pytest

from s2vnet.cli.console import Clock, count_cases, duration, note, note_mismatch, progress


def test_notes_go_to_the_error_stream(capsys: pytest.CaptureFixture[str]) -> None:
    note("look twice")
    note_mismatch("case0", "a spacing of 9 mm")
    assert capsys.readouterr() == ("", "note: look twice\nnote: case0: unlike the training data: a spacing of 9 mm\n")


def test_each_finished_case_counts() -> None:
    reports: list[tuple[str, int, int]] = []
    done = count_cases(lambda *report: reports.append(report), "cases", 2)
    done("a")
    done("b")
    assert reports == [("cases", 1, 2), ("cases", 2, 2)]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (4.24, "4.2 s"), (59.4, "59 s"), (60, "1 min 0 s"), (3599.6, "1 h 0 min"), (7500, "2 h 5 min")],
)
def test_durations_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_time_left_is_that_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run, whose first step here is its sixth, has taken 10 s a step since it was resumed."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    clock = Clock()
    now += 10
    assert clock.left(6, 10) == "40 s left"
    now += 10
    assert clock.left(7, 10) == "30 s left"
    assert clock.left(10, 10) == "finished"


def test_without_a_terminal_long_work_has_a_line_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with progress() as report:
        for done in range(1, 8):
            for what in ("reading cases", "training"):  # the latter has a line per epoch
                report(what, done, 7)
            now += 35
    assert capsys.readouterr() == ("", "reading cases: 3 of 7, 1 min 33 s left\nreading cases: 5 of 7, 56 s left\n"
                                       "reading cases: 7 of 7, finished\n")  # fmt: skip
