"""What every command needs of a terminal: one line for what is refused, settings, progress bars."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel

    from s2vnet.batch.runner import Record

Models = Annotated[list[str], typer.Option("-m", "--model", help="Model name or folder; several are averaged.")]
Model = Annotated[str, typer.Option("-m", "--model", help="Model name (abdomen-ct, hippocampus-mr) or folder.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Series = Annotated[str | None, typer.Option("--series", help="Of a DICOM folder or .zip with several: number or UID.")]
Fill = Annotated[float | None, typer.Option("--fill-nan", help="Value for NaN and infinite voxels (else refused).")]
Runtime = Annotated[str, typer.Option(help="torch, or on a CPU faster: onnxruntime or openvino.")]
_Settings = TypeVar("_Settings", bound="BaseModel")


def refuse(text: str) -> NoReturn:
    """Raise InputError; its module brings numpy along, for which ``--help`` shall not wait."""
    from s2vnet.errors import InputError

    raise InputError(text)


def note(text: str) -> None:
    """Tell, beside the output, what a user should know."""
    typer.echo(f"note: {text}", err=True)


def make_folder(folder: Path) -> None:
    """Make a folder, or refuse in one line."""
    from s2vnet.utils import folders

    folders.make_folder(folder)


def key_values(given: list[str] | None) -> dict[str, Any]:
    """KEY=VALUE options; pydantic checks and converts the values."""
    pairs: dict[str, Any] = {}
    for text in given or ():
        key, sign, value = text.partition("=")
        if not sign:
            refuse(f"{text!r}: settings are given as KEY=VALUE")
        pairs[key] = int(value) if re.fullmatch("-?[0-9]+", value) else value
    return pairs


def settings_of(kind: type[_Settings], values: dict[str, Any]) -> _Settings:
    """Checked settings; what is wrong in one line."""
    from pydantic import ValidationError

    try:
        return kind.model_validate(values)
    except ValidationError as error:
        from s2vnet.utils.validation import first_error

        refuse(f"setting {first_error(error)}")


def counter(report: Callable[[str, int, int], None], what: str, total: int) -> Callable[[str], None]:
    """Counts calls and reports them."""
    count = iter(range(1, total + 1))
    return lambda name: report(what, next(count), total)


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """Progress bars on the terminal's error stream, one per kind of work; quiet where there is no terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

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


def tell_records(records: Iterator[Record], total: int) -> int:
    """Show how a batch gets on, a line for each failed case, and the sum; returns how many failed."""
    counts = {"done": 0, "skipped": 0, "failed": 0}
    with progress() as report:
        for record in records:
            counts[record.state] += 1
            report("segmenting", sum(counts.values()), total)
            for text in record.notes if record.state == "done" else ():
                note(f"{record.case}: unlike the training data: {text}")
            if record.state == "failed":
                typer.echo(f"error: {record.case}: {record.reason}", err=True)
    typer.echo(f"{counts['done']} done, {counts['skipped']} skipped, {counts['failed']} failed; see summary.csv")
    return counts["failed"]
