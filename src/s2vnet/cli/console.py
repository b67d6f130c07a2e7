"""Output on the terminal: notes and progress bars."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Report = Callable[[str, int, int], None]
"""Called with the kind of work, the finished part of it, and the total."""
LINE_INTERVAL_S = 60.0
"""Interval of lines about progress without a terminal."""
OWN_LINES = frozenset(("training", "segmenting"))
"""Kinds of work that print a line per epoch or case without a terminal."""


def note(text: str) -> None:
    """Print a line of information on the error stream."""
    typer.echo(f"note: {text}", err=True)


def note_case(case: str, text: str) -> None:
    """Print what a user should know of a case."""
    note(f"{case}: {text}")


def note_mismatch(case: str, text: str) -> None:
    """Print how a case differs from the model's training data."""
    note(f"{case}: unlike the training data: {text}")


def count_cases(report: Report, what: str, total: int) -> Callable[[str], None]:
    """Return a callback that reports one more finished case; it is called with the case's name."""
    count = iter(range(1, total + 1))
    return lambda name: report(what, next(count), total)


def is_terminal() -> bool:
    """Whether the error stream is a terminal, where progress bars are shown; else lines are printed."""
    return Console(stderr=True).is_terminal


def duration(seconds: float) -> str:
    """Duration in words: ``2 h 5 min``, ``3 min 20 s`` or ``4.2 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class Clock:
    """Estimate of the time left from the pace since the first step."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._first: int | None = None

    def left(self, done: int, total: int) -> str:
        """Time left after `done` of `total` steps; the first call's earlier steps belong to an earlier process."""
        if self._first is None:
            self._first = done - 1
        seconds = (time.monotonic() - self._started) / max(1, done - self._first) * (total - done)
        return f"{duration(seconds)} left" if done < total else "finished"


@contextmanager
def progress() -> Iterator[Report]:
    """Show progress on the error stream: bars on a terminal, else a line a minute for each kind of work."""
    if not is_terminal():
        yield _line_report()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield report


def _line_report() -> Report:
    """Report that prints lines, except of work that has lines of its own (:data:`OWN_LINES`)."""
    clocks: dict[str, Clock] = {}
    printed: dict[str, float] = {}

    def report(what: str, done: int, total: int) -> None:
        now = time.monotonic()
        clock = clocks.setdefault(what, Clock())
        left = clock.left(done, total)
        if what not in OWN_LINES and now - printed.setdefault(what, now) > LINE_INTERVAL_S:
            printed[what] = now
            typer.echo(f"{what}: {done} of {total}, {left}", err=True)

    return report
