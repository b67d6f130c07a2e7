"""Output on the terminal: notes and progress bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Report = Callable[[str, int, int], None]
"""Called with the kind of work, the finished part of it, and the total."""


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


@contextmanager
def progress() -> Iterator[Report]:
    """Show progress bars on the error stream, one for each kind of work, if the stream is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as bar:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield report
