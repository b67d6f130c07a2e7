"""The commands `predict` and `export`: options to jobs. Heavy libraries load when one of them runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s2vnet.cli.console import (
    Device,
    Fill,
    Model,
    Models,
    Runtime,
    Series,
    make_folder,
    note,
    progress,
    refuse,
    tell_records,
)

if TYPE_CHECKING:
    from s2vnet.inference.segmenter import Segmenter


def export(
    model: Model,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the model and its graphs.")],
    int8: Annotated[
        Path | None, typer.Option(help="Also an encode graph in int8, for openvino; calibrated on these images.")
    ] = None,
) -> None:
    """Write a model with its ONNX graphs, for --runtime and for programs of your own.

    Example: s2vnet export -m abdomen-ct -o models/abdomen-ct --int8 imagesTr
    """
    import shutil

    from s2vnet.batch.jobs import find_cases
    from s2vnet.evaluation.int8_calibration import calibrate_int8
    from s2vnet.inference.segmenter import find_model
    from s2vnet.model.checkpoint import DESCRIPTION, WEIGHTS, load_model
    from s2vnet.model.onnx_export import export_onnx as write
    from s2vnet.model.quantization import remove_int8_graph
    from s2vnet.utils.atomic_write import atomic_write, require_writable

    source = find_model(model)
    trained = load_model(source)
    cases = None if int8 is None else find_cases(int8, len(trained.plan.get("channels", ())))
    make_folder(output)
    require_writable(output)
    if output.resolve() != source.resolve():
        if (output / DESCRIPTION).exists() and load_model(output).sha256 != trained.sha256:
            refuse(f"{output} holds another model; choose another folder")
        for name in (WEIGHTS, DESCRIPTION):
            with atomic_write(output / name) as temporary:
                shutil.copyfile(source / name, temporary)
    with progress() as report:
        write(trained, output, lambda done, total: report("exporting", done, total))
        remove_int8_graph(output)  # of an earlier export
        if cases is not None:
            found = calibrate_int8(
                output,
                cases,
                progress=lambda done, total: report("calibrating", done, total),
                note=lambda name, text: note(f"{name}: unlike the training data: {text}"),
            )
            note(f"labels with int8 agree with those of float32 by a Dice of {found:.3f}, slice by slice")
    typer.echo(output)


def predict(
    model: Models,
    input: Annotated[str, typer.Option("-i", "--input", help="Image, DICOM folder, folder of images, list, or URL.")],
    output: Annotated[
        str, typer.Option("-o", "--output", help="Label file (of a DICOM series also .dcm, .rtstruct.dcm), or folder.")
    ],
    classes: Annotated[str | None, typer.Option(help="Only these classes: names or values, with commas.")] = None,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Also write class probabilities.")] = False,
    uncertainty: Annotated[bool, typer.Option("--uncertainty", help="Also write an uncertainty map.")] = False,
    overlay: Annotated[bool, typer.Option("--overlay", help="Also write a picture.")] = False,
    volumes: Annotated[bool, typer.Option("--volumes", help="Also write volumes.csv (ml per class).")] = False,
    skip_existing: Annotated[bool, typer.Option("--skip-existing", help="Leave finished cases as they are.")] = False,
    max_memory: Annotated[
        str | None, typer.Option(help="Most memory to use, such as 3GB; what exceeds it waits on disk.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Batch: processes that segment, each restarted.")] = None,
    engine: Annotated[str, typer.Option(help="Batch: local processes, or actors of a cluster (ray).")] = "local",
    address: Annotated[str | None, typer.Option(help="Of the Ray cluster; starts one here if none.")] = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="CPU cores per worker; they share this machine's.")] = None,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs per Ray worker; 0.5 lets two share one.")] = 0.0,
    attempts: Annotated[int, typer.Option(min=1, help="Batch: tries of a case whose worker dies.")] = 2,
    series: Series = None,
    device: Device = "auto",
    runtime: Runtime = "torch",
    fill_nan: Fill = None,
) -> None:
    """Segment images automatically.

    A list (.csv, .parquet) with a column image, a URL (s3://bucket/scans), --workers or --engine make it a batch, with
    summary.csv; begun anew, it goes on.

    Example: s2vnet predict -m abdomen-ct -i imagesTs -o labelsTs --overlay --volumes
    """
    from s2vnet.batch.cases import requires_batch, strip_file_scheme
    from s2vnet.batch.jobs import ExtraOutputs, plan_jobs
    from s2vnet.batch.jobs import predict as run
    from s2vnet.inference.segmenter import load_plan
    from s2vnet.interactive.text_commands import class_by_name
    from s2vnet.io.dicom.series import select_series
    from s2vnet.utils.atomic_write import require_writable
    from s2vnet.utils.memory import bound_memory
    from s2vnet.utils.sizes import parse_size

    most = None if max_memory is None else parse_size(max_memory)
    if most is not None:
        bound_memory()
    input, output = strip_file_scheme(input), strip_file_scheme(output)
    many = workers is not None or engine != "local" or requires_batch(input, output)
    plan = load_plan(*model)
    names = plan.class_names
    chosen = None if classes is None else [class_by_name(names, part.strip()) for part in classes.split(",")]
    failed = 0
    extras = ExtraOutputs(probabilities, uncertainty, overlay, volumes)
    if many:
        from s2vnet.batch.runner import open_batch
        from s2vnet.batch.workers import BatchSettings

        if series is not None:
            refuse("--series chooses from one DICOM folder; name that alone, without --workers")
        kept = None if chosen is None else tuple(chosen)
        work = BatchSettings(tuple(model), device, extras, kept, fill_nan, runtime=runtime, max_memory=most)
        batch = open_batch(
            input,
            output,
            work,
            len(plan.channels),
            workers=workers,
            engine=engine,
            address=address,
            cpus=cpus,
            gpus=gpus,
            attempts=attempts,
            skip_existing=skip_existing,
        )
        raise typer.Exit(int(tell_records(*batch) > 0))
    segmenter = load_segmenter(model, device, runtime)
    with select_series(input, series) as source, progress() as report:
        jobs = plan_jobs(source, Path(output), len(plan.channels))
        for folder in {job.output.parent for job in jobs}:
            require_writable(next(path for path in (folder, *folder.absolute().parents) if path.exists()))
        finished = run(
            segmenter,
            jobs,
            extras=extras,
            classes=chosen,
            fill_nonfinite=fill_nan,
            overwrite=not skip_existing,
            max_memory=most,
            note=lambda name, text: note(f"{name}: unlike the training data: {text}"),
        )
        for number, (job, error) in enumerate(finished):
            report("segmenting", number + 1, len(jobs))
            if error is not None:
                failed += 1
                typer.echo(f"error: {job.case.name}: {error}", err=True)
    if failed and len(jobs) > 1:
        typer.echo(f"error: {failed} of {len(jobs)} images failed; the others are written", err=True)
    if failed:
        raise typer.Exit(1)


def load_segmenter(models: list[str], device: str, runtime: str = "torch") -> Segmenter:
    """Models by name or folder."""
    from s2vnet.inference.segmenter import Segmenter

    return Segmenter.from_pretrained(*models, device=device, runtime=runtime)
