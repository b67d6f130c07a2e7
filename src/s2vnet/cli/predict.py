"""``s2vnet predict``."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s2vnet.cli.console import Clock, duration, is_terminal, note_case, progress
from s2vnet.cli.options import AnyModality, Device, Fill, Models, Runtime, Series, comma_separated
from s2vnet.errors import InputError, S2VNetError
from s2vnet.io.dicom.series import select_series
from s2vnet.io.dicomweb.address import is_address
from s2vnet.io.dicomweb.queries import ANY, Query
from s2vnet.utils.atomic_write import require_writable
from s2vnet.utils.byte_sizes import parse_size
from s2vnet.utils.lazy_import import LazyModule
from s2vnet.utils.memory import release_large_blocks

if TYPE_CHECKING:
    import s2vnet.batch.cases as batch_cases
    import s2vnet.batch.jobs as batch_jobs
    import s2vnet.batch.records as batch_records
    import s2vnet.batch.runner as batch_runner
    import s2vnet.batch.workers as batch_workers
    import s2vnet.inference.model_set as model_set
    from s2vnet.interactive import typed_commands as text_commands
else:
    batch_cases = LazyModule("s2vnet.batch.cases")
    batch_jobs = LazyModule("s2vnet.batch.jobs")
    batch_records = LazyModule("s2vnet.batch.records")
    batch_runner = LazyModule("s2vnet.batch.runner")
    batch_workers = LazyModule("s2vnet.batch.workers")
    model_set = LazyModule("s2vnet.inference.model_set")
    text_commands = LazyModule("s2vnet.interactive.typed_commands")


def predict(
    model: Models,
    input: Annotated[
        str, typer.Option("-i", "--input", help="Image, DICOM folder, folder of images, list, URL or archive.")
    ],
    output: Annotated[
        str,
        typer.Option(
            "-o", "--output", help="Label file (of a DICOM series also .dcm, .labelmap.dcm, .rtstruct.dcm), or folder."
        ),
    ],
    classes: Annotated[str | None, typer.Option(help="Only these classes: names or values, comma-separated.")] = None,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Also write class probabilities.")] = False,
    uncertainty: Annotated[bool, typer.Option("--uncertainty", help="Also write an uncertainty map.")] = False,
    overlay: Annotated[bool, typer.Option("--overlay", help="Also write a picture.")] = False,
    volumes: Annotated[bool, typer.Option("--volumes", help="Also write volumes.csv (ml per class).")] = False,
    skip_existing: Annotated[bool, typer.Option("--skip-existing", help="Skip cases whose outputs exist.")] = False,
    max_memory: Annotated[
        str | None, typer.Option(help="Memory limit, such as 3GB; beyond it intermediate results are kept on disk.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Batch: number of worker processes; one that dies is restarted.")
    ] = None,
    engine: Annotated[str, typer.Option(help="Batch: local processes, or actors of a cluster (ray).")] = "local",
    address: Annotated[str | None, typer.Option(help="Address of the Ray cluster; default: start one here.")] = None,
    cpus: Annotated[
        int | None, typer.Option(min=1, help="CPU cores per worker; default: this machine's, shared.")
    ] = None,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs per Ray worker; 0.5 lets two share one.")] = 0.0,
    attempts: Annotated[int, typer.Option(min=1, help="Batch: attempts at a case whose worker dies.")] = 2,
    modality: Annotated[str | None, typer.Option(help="Archive: only series of this modality, such as CT.")] = None,
    since: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Archive: only studies of this day or later.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Archive: only studies of this day or earlier.")
    ] = None,
    description: Annotated[
        str | None, typer.Option(help="Archive: only series whose description contains this, in any case.")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(help="Archive: store results there: seg, labelmap (SEG, too) or rtstruct, comma-separated."),
    ] = None,
    series: Series = None,
    device: Device = "auto",
    runtime: Runtime = "auto",
    fill_nan: Fill = None,
    any_modality: AnyModality = False,
) -> None:
    """Segment images automatically.

    A list (.csv, .parquet) with a column image, a URL (s3://bucket/scans), --workers or --engine run a batch, with
    summary.csv; run the command again to resume. So do the series of a DICOM archive (dicomwebs://host/path, followed
    by /studies/UID or /studies/UID/series/UID for a part of it; dicomweb:// for http on this machine).

    Example: s2vnet predict -m abdomen-ct -i imagesTs -o labelsTs --overlay --volumes
    """
    memory = None if max_memory is None else parse_size(max_memory)
    if memory is not None:
        release_large_blocks()
    input, output = batch_cases.strip_file_scheme(input), batch_cases.strip_file_scheme(output)
    groups = model_set.group_models(model)
    if len(groups) > 1 and (classes is not None or volumes):
        raise InputError("--classes and --volumes need one model: classes differ between models")
    plan = groups[0][0]
    selected = (
        None
        if classes is None
        else [text_commands.class_by_name(plan.class_names, name) for name in comma_separated(classes)]
    )
    extras = batch_jobs.ExtraOutputs(probabilities, uncertainty, overlay, volumes)
    query = Query(modality, since and since.date(), until and until.date(), description)
    if (store or query != ANY) and not is_address(input):
        raise InputError("--modality, --since, --until, --description and --store are for a DICOM archive as input")
    if workers is not None or engine != "local" or batch_cases.requires_batch(input, output):
        if series is not None:
            raise InputError("--series chooses from one DICOM folder; name that alone, without --workers")
        records, total = batch_runner.open_batch(
            input,
            output,
            batch_workers.BatchSettings(
                tuple(model),
                device,
                extras,
                None if selected is None else tuple(selected),
                fill_nan,
                runtime=runtime,
                max_memory=memory,
                any_modality=any_modality,
            ),
            len(plan.channels),
            workers=workers,
            engine=engine,
            address=address,
            cpus=cpus,
            gpus=gpus,
            attempts=attempts,
            skip_existing=skip_existing,
            query=query,
            store=() if store is None else comma_separated(store),
        )
        raise typer.Exit(int(_show_records(records, total, output) > 0))
    models = model_set.ModelSet.from_pretrained(*model, device=device, runtime=runtime, any_modality=any_modality)
    with select_series(input, series) as source:
        jobs = batch_jobs.plan_jobs(source, Path(output), len(plan.channels))
        _require_writable(jobs)
        kept = {job.output for job in jobs if skip_existing and job.output.exists()}
        results = batch_jobs.predict(
            models,
            jobs,
            extras=extras,
            classes=selected,
            fill_nonfinite=fill_nan,
            overwrite=not skip_existing,
            max_memory=memory,
            note=note_case,
        )
        failed = _show_results(results, len(jobs), kept)
    _show_outputs(jobs, len(jobs) - failed - len(kept), extras)
    if failed and len(jobs) > 1:
        typer.echo(f"error: {failed} of {len(jobs)} images failed; the others are written", err=True)
    if failed:
        raise typer.Exit(1)


def _require_writable(jobs: Sequence[batch_jobs.Job]) -> None:
    """Raise InputError unless the nearest existing folder above every output is writable."""
    for folder in {job.output.parent for job in jobs}:
        require_writable(next(path for path in (folder, *folder.absolute().parents) if path.exists()))


def _show_results(
    results: Iterator[tuple[batch_jobs.Job, S2VNetError | None]], total: int, kept: Collection[Path]
) -> int:
    """Show progress, without a terminal a line for each image, and a line for each failure; return their number."""
    failed = 0
    lines = None if is_terminal() else Clock()
    with progress() as report:
        started = time.monotonic()
        for number, (job, error) in enumerate(results, start=1):
            report("segmenting", number, total)
            seconds, started = time.monotonic() - started, time.monotonic()
            if error is not None:
                failed += 1
                typer.echo(f"error: {job.case.name}: {error}", err=True)
            elif lines is not None:
                state = "labels exist" if job.output in kept else f"done in {duration(seconds)}"
                typer.echo(f"{number} of {total} {job.case.name}: {state}, {lines.left(number, total)}")
    return failed


def _show_outputs(jobs: Sequence[batch_jobs.Job], written: int, extras: batch_jobs.ExtraOutputs) -> None:
    """Say what was written where."""
    names = {"probabilities": extras.probabilities, "uncertainty": extras.uncertainty, "overlays": extras.overlay}
    beside = [name for name, given in names.items() if given] + ["volumes.csv"] * extras.volumes
    more = f", beside them {', '.join(beside)}" if beside else ""
    if len(jobs) == 1 and written:
        typer.echo(f"{jobs[0].output}: labels{more.replace('them', 'it')}")
    elif jobs:
        typer.echo(f"{jobs[0].output.parent}: {written} label files{more}")


def _show_records(records: Iterator[batch_records.CaseRecord], total: int, target: str) -> int:
    """Show a batch's progress, a line for each failed case, and the counts; return the number of failures.

    Without a terminal, each other case has a line, too.
    """
    counts = {"done": 0, "skipped": 0, "failed": 0}
    lines = None if is_terminal() else Clock()
    with progress() as report:
        for record in records:
            counts[record.state] += 1
            report("segmenting", sum(counts.values()), total)
            for text in record.notes if record.state == "done" else ():
                note_case(record.case, text)
            if record.state == "failed":
                typer.echo(f"error: {record.case}: {record.reason}", err=True)
            elif lines is not None:
                state = f"done in {duration(record.seconds)}" if record.state == "done" else record.reason
                number = sum(counts.values())
                typer.echo(f"{number} of {total} {record.case}: {state}, {lines.left(number, total)}")
    typer.echo(
        f"{target}: {counts['done']} done, {counts['skipped']} skipped, {counts['failed']} failed; see summary.csv"
    )
    return counts["failed"]
