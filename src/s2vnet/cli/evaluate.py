"""``s2vnet evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s2vnet.cli.console import count_cases, note, progress
from s2vnet.cli.options import Device, Fill, comma_separated
from s2vnet.data.case_files import CaseFiles
from s2vnet.data.header_notes import header_notes
from s2vnet.errors import InputError
from s2vnet.utils.atomic_write import require_writable
from s2vnet.utils.lazy_import import LazyModule

if TYPE_CHECKING:
    import s2vnet.evaluation.compare as comparison
    import s2vnet.evaluation.report as reports
    import s2vnet.evaluation.validate as validation
    import s2vnet.inference.segmenter as inference
else:
    comparison = LazyModule("s2vnet.evaluation.compare")
    reports = LazyModule("s2vnet.evaluation.report")
    validation = LazyModule("s2vnet.evaluation.validate")
    inference = LazyModule("s2vnet.inference.segmenter")


def evaluate(
    input: Annotated[Path, typer.Option("-i", "--input", help="Predicted labels; with --interactive, images.")],
    labels: Annotated[Path, typer.Option("-g", "--labels", help="True labels of the same names.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Report (.json); tables are written beside (.md).")],
    interactive: Annotated[bool, typer.Option("--interactive", help="Evaluate a model with a simulated user.")] = False,
    model: Annotated[str | None, typer.Option("-m", "--model", help="Model, for --interactive.")] = None,
    rounds: Annotated[int, typer.Option(help="Rounds of one click per class.", min=1)] = 5,
    jitter: Annotated[float, typer.Option(help="Standard deviation of click positions, mm.", min=0)] = 0.0,
    negative_clicks: Annotated[
        bool, typer.Option("--negative-clicks", help="Correct false positives by 'not CLASS'.")
    ] = False,
    classes: Annotated[str | None, typer.Option(help="Class names in order of label values from 1.")] = None,
    dataset: Annotated[
        Path | None,
        typer.Option(help="dataset.json with class names, regions, ignore label; default: that beside the labels."),
    ] = None,
    device: Device = "auto",
    fill_nan: Fill = None,
) -> None:
    """Score predictions, or a model under a simulated user.

    Example: s2vnet evaluate -i predictions -g labelsTr -o report.json

    Example: s2vnet evaluate --interactive -m hippocampus-mr -i imagesTr -g labelsTr -o report.json
    """
    if output.suffix != ".json":
        raise InputError(f"{output}: the report must be named .json")
    require_writable(output.parent)
    if interactive and model is None:
        raise InputError("--interactive needs a model: -m NAME_OR_DIR")
    segmenter = (
        inference.Segmenter.from_pretrained(model, device=device, runtime="torch")
        if interactive and model is not None
        else None
    )
    channels = 0 if segmenter is None else len(segmenter.plan.channels)
    definitions = comparison.find_definitions(labels, dataset, note)
    ignore = None if definitions is None else definitions.ignore
    if ignore is not None:
        note(f"voxels of the ignore label {ignore} are not scored")
    pairs = comparison.pair_files(input, labels, channels, note)
    for text in header_notes(CaseFiles(*pair) for pair in pairs):
        note(text)
    failed: dict[str, str] = {}
    with progress() as report:
        done = count_cases(report, "evaluating", len(pairs))
        if segmenter is None:
            known = [] if definitions is None else list(definitions.classes)[1:]
            scores = comparison.compare_labels(
                pairs,
                known if classes is None else comma_separated(classes),
                done,
                regions=None if definitions is None else definitions.regions,
                ignore=ignore,
                failed=failed.__setitem__,
            )
        else:
            scores = validation.validate(
                segmenter,
                comparison.read_pairs(
                    pairs,
                    ignore=ignore,
                    fill_nonfinite=fill_nan,
                    frames_as_channels=len(segmenter.plan.channels) > 1,
                    failed=failed.__setitem__,
                ),
                rounds=rounds,
                jitter_mm=jitter,
                false_positive_click="negative" if negative_clicks else "true-class",
                done=done,
            )
    for name, message in failed.items():
        typer.echo(f"error: {name}: {message}", err=True)
    if len(failed) == len(pairs):
        raise InputError(f"none of {len(pairs)} cases can be scored; no report is written")
    reports.write_report(output, scores | ({"failed": failed} if failed else {}))
    typer.echo(reports.markdown(scores, cases=False))
    if failed:
        typer.echo(f"error: {len(failed)} of {len(pairs)} cases are not in the report", err=True)
        raise typer.Exit(1)
