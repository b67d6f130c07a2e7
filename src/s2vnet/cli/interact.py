"""``s2vnet interact``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s2vnet.cli.console import note, progress
from s2vnet.cli.options import AnyModality, Device, Fill, Model, Runtime, Series
from s2vnet.data.case_files import find_channel_files
from s2vnet.errors import InputError
from s2vnet.io.dicom.series import select_series
from s2vnet.io.files import read_image, read_labels
from s2vnet.utils.atomic_write import require_writable
from s2vnet.utils.lazy_import import LazyModule

if TYPE_CHECKING:
    import s2vnet.inference.model_set as model_set
    import s2vnet.inference.segmenter as inference
    import s2vnet.interactive.session as interactive_session
    from s2vnet.inference import label_writers
    from s2vnet.interactive import typed_commands as text_commands
else:
    label_writers = LazyModule("s2vnet.inference.label_writers")
    inference = LazyModule("s2vnet.inference.segmenter")
    model_set = LazyModule("s2vnet.inference.model_set")
    interactive_session = LazyModule("s2vnet.interactive.session")
    text_commands = LazyModule("s2vnet.interactive.typed_commands")


def interact(
    context: typer.Context,
    model: Model,
    input: Annotated[Path, typer.Option("-i", "--input", help="Image or DICOM folder.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Label file to write (for a DICOM series also .dcm).")],
    log: Annotated[Path | None, typer.Option(help="Prompt log: replayed if it exists, then kept up to date.")] = None,
    point: Annotated[list[str] | None, typer.Option("--point", help="CLASS,I,J,K: this voxel is CLASS.")] = None,
    negative: Annotated[list[str] | None, typer.Option("--not", help="CLASS,I,J,K: this voxel is not CLASS.")] = None,
    initial: Annotated[Path | None, typer.Option(help="Labels to start from instead of the automatic ones.")] = None,
    series: Series = None,
    device: Device = "auto",
    runtime: Runtime = "auto",
    fill_nan: Fill = None,
    any_modality: AnyModality = False,
) -> None:
    """Correct a segmentation by prompts, from options, a saved log, or typed in.

    Without --point and --not, commands are read from standard input, one per line: point CLASS I J K, not CLASS I J K,
    scribble CLASS I J K I J K ..., lasso CLASS I J K I J K ... (corners on one slice), box CLASS I J K I J K,
    mask CLASS FILE, class NAME (adds a class of your own), lock CLASS, unlock CLASS, remove N, undo, redo, list, quit.
    If the log exists, they are only read from a terminal.

    Example: s2vnet interact -m abdomen-ct -i scan.nii.gz -o labels.nii.gz --point liver,120,80,60
    """
    source = context.with_resource(select_series(input, series))
    images = find_channel_files(source, len(inference.load_plan(model).channels)) or (source,)
    for text in _check_paths(images, output, log):
        note(text)
    commands = [*_point_commands("point", point), *_point_commands("not", negative)]
    segmenter = inference.Segmenter.from_pretrained(model, device=device, runtime=runtime)
    session = _open_session(segmenter, images, fill_nan, any_modality, initial)
    for text in (*session.geometry.notes, *label_writers.geometry_notes(output, session.geometry)):
        note(text)
    from_stdin = not commands and (log is None or not log.exists() or sys.stdin.isatty())
    if log is not None and log.exists():
        session.replay(log)
    if from_stdin and sys.stdin.isatty():
        classes = ", ".join(f"{k} {name}" for k, name in segmenter.class_names.items())
        typer.echo(f"commands: {text_commands.COMMANDS}\nclasses: {classes}; voxels are I J K of the file", err=True)
    interrupted = False
    try:
        if from_stdin:
            _run_commands(session, sys.stdin, log, retry=sys.stdin.isatty())
        else:
            _run_commands(session, commands)
    except KeyboardInterrupt:
        interrupted = True  # labels and log with the prompts so far are still written
    if log is not None:
        session.save_log(log)
    label_writers.save_result(output, session.result, session.class_names, images[0], corrected=bool(session.log))
    for text in session.notes:
        note(text)
    typer.echo(f"{output}: {len(session.log)} prompts")
    if interrupted:
        raise typer.Exit(130)


def _check_paths(images: Sequence[Path], output: Path, log: Path | None) -> tuple[str, ...]:
    """Check that labels and log can be written and do not replace an input.

    Returns:
        What the labels' file will not state as the image does, one line each.

    Raises:
        InputError: A file cannot be written, or would replace an input or the other output.
    """
    notes = label_writers.require_format(output, images[0])
    if output.resolve() in [image.resolve() for image in images]:
        raise InputError(f"{output}: the labels would replace the image; choose another output")
    if log is not None and log.resolve() in [path.resolve() for path in (output, *images)]:
        raise InputError(f"{log}: the log needs a file of its own")
    for path in (output, *([log] if log else [])):
        require_writable(path.parent)
    return notes


def _point_commands(command: str, points: Sequence[str] | None) -> list[str]:
    """Return CLASS,I,J,K options as text commands."""
    for text in points or ():
        if text.count(",") < 3:
            raise InputError(f"{text!r}: a point is given as CLASS,I,J,K")
    return [f"{command} {text}".replace(",", " ") for text in points or ()]


def _open_session(
    segmenter: inference.Segmenter,
    images: Sequence[Path],
    fill_nan: float | None,
    any_modality: bool,
    initial: Path | None,
) -> interactive_session.Session:
    with progress() as report:
        files = images if len(images) > 1 else images[0]
        volume = read_image(files, fill_nonfinite=fill_nan, frames_as_channels=len(segmenter.plan.channels) > 1)
        if not any_modality:
            model_set.choose_plan([segmenter.plan], volume, images[0])
        labels = None if initial is None else read_labels(initial)
        session = interactive_session.Session(
            segmenter, volume, lambda done, total: report("encoding", done, total), initial=labels
        )
    for text in session.training_differences:
        note(f"unlike the training data: {text}")
    return session


def _run_commands(
    session: interactive_session.Session, lines: Iterable[str], log: Path | None = None, *, retry: bool = False
) -> None:
    """Run text commands until the end of the lines or ``quit``, and print their results.

    Args:
        session: The session that they change.
        lines: One command each.
        log: Prompt log, saved after each command.
        retry: Print an invalid command's error and continue, for interactive use.

    Raises:
        InputError: An invalid command, without `retry`.
    """
    for line in lines:
        try:
            answer = text_commands.run_command(session, line.strip())
        except InputError as error:
            if not retry:
                raise
            typer.echo(f"error: {error}", err=True)
            continue
        if answer is None:
            break
        if answer:
            typer.echo(answer)
        if log is not None:
            session.save_log(log)
