"""The command line: options to calls, errors to one line. Heavy libraries load when a command runs, not before."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s2vnet._version import __version__
from s2vnet.cli.console import (
    Device,
    Fill,
    Model,
    Runtime,
    Series,
    counter,
    key_values,
    make_folder,
    note,
    progress,
    refuse,
    settings_of,
)
from s2vnet.cli.predict import export, load_segmenter, predict
from s2vnet.cli.serve import serve, view

if TYPE_CHECKING:
    from s2vnet.data.dataset import Dataset

app = typer.Typer(
    help="Segment whole 3D volumes with one 2D network, automatically and interactively, every class at once.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

DatasetArgument = Annotated[Path | None, typer.Argument(help="Folder in nnU-Net's raw layout or the Decathlon's.")]
DatasetOption = Annotated[Path | None, typer.Option("-d", "--dataset", help="The same, as nnU-Net's flag.")]


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if version:
        typer.echo(f"s2vnet {__version__}")
        raise typer.Exit


@app.command("import")
def import_(
    release: Annotated[str, typer.Argument(help="btcv, word, amos, msd or nnunet.")],
    source: Annotated[Path, typer.Argument(help="Folder of the release as unpacked; it is only read.")],
    target: Annotated[Path, typer.Argument(help="New folder, named as nnU-Net does: Dataset017_BTCV.")],
    split: Annotated[str | None, typer.Option(help="btcv: 18/12 (TransUNet, default) or 24/6 (Swin UNETR).")] = None,
    modality: Annotated[str | None, typer.Option(help="amos: all (default), ct or mr.")] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy files; else they are symbolic links.")] = False,
    partial: Annotated[bool, typer.Option("--partial", help="Import what is there of an incomplete release.")] = False,
) -> None:
    """Turn an official release into a dataset in nnU-Net's raw layout, with its usual split.

    Example: s2vnet import btcv Abdomen/RawData Dataset017_BTCV --split 24/6
    """
    from s2vnet.data.importers import import_release

    with progress() as report:
        made = import_release(
            release, source, target, split=split, modality=modality, copy=copy, partial=partial, progress=report
        )
    for text in made.notes:
        note(text)
    typer.echo(f"{target}: {made.training} training and {made.test} test cases")


@app.command()
def plan(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for fingerprint.json and plan.json.")],
    dataset: DatasetArgument = None,
    named: DatasetOption = None,
    sampling: Annotated[float | None, typer.Option(min=0.05, help="Pixel size in plane, mm; chosen if none.")] = None,
    fill_nan: Fill = None,
) -> None:
    """Look at a dataset and choose plane, sampling, intensities and network size.

    Example: s2vnet plan Dataset004_Hippocampus -o runs/hippocampus
    """
    from s2vnet.data.dataset import read_dataset
    from s2vnet.data.fingerprint import extract_fingerprint
    from s2vnet.data.plan import make_plan, save_json

    read = read_dataset(_one_of(dataset, named))
    make_folder(output)
    with progress() as report:
        found = extract_fingerprint(
            read, fill_nonfinite=fill_nan, progress=lambda n, of: report("reading cases", n, of)
        )
    save_json(found, output / "fingerprint.json")
    chosen = make_plan(found, sampling)
    save_json(chosen, output / "plan.json")
    typer.echo(chosen.model_dump_json(indent=2))
    if found.empty_cases:
        note(f"no label but background in {', '.join(found.empty_cases)}")


@app.command()
def train(
    output: Annotated[Path, typer.Option("-o", "--output", help="Run folder.")],
    dataset: DatasetArgument = None,
    named: DatasetOption = None,
    fold: Annotated[str, typer.Option("-f", "--fold", help="0 to 4, or all: train on every case.")] = "0",
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the run folder's checkpoint.")] = False,
    init: Annotated[str | None, typer.Option(help="Start from a trained model: its name or folder.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of 50 steps; the default is 48.")] = None,
    plan_file: Annotated[Path | None, typer.Option("--plan", help="An edited plan.json; planned anew if none.")] = None,
    config: Annotated[list[str] | None, typer.Option("-c", "--config", help="Training setting KEY=VALUE.")] = None,
    network: Annotated[list[str] | None, typer.Option("-n", "--network", help="Network setting KEY=VALUE.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, clips and simulated users.")] = 0,
    device: Device = "auto",
    devices: Annotated[int, typer.Option(min=1, help="Processes; more than one train data-parallel.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Machines that run this command together (torchrun, SLURM).")] = 1,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that prepare clips; beside a GPU.")] = None,
    validation: Annotated[bool, typer.Option(help="Score the fold's cases at the end, both modes.")] = True,
    fill_nan: Fill = None,
) -> None:
    """Train one network for automatic and interactive use.

    Example: s2vnet train Dataset004_Hippocampus -f 0 -o runs/hippocampus-f0
    """
    import datetime
    from functools import partial

    from s2vnet.config import ModelConfig, TrainConfig
    from s2vnet.data.dataset import read_dataset, read_folds
    from s2vnet.data.fingerprint import extract_fingerprint
    from s2vnet.data.plan import make_plan, read_plan
    from s2vnet.inference.segmenter import find_model
    from s2vnet.model.checkpoint import DESCRIPTION, load_model
    from s2vnet.training.trainer import CHECKPOINT, load_cases
    from s2vnet.training.trainer import train as run_training
    from s2vnet.utils.atomic_write import require_writable

    read = read_dataset(_one_of(dataset, named))
    names, held_out = _fold(fold, read, read_folds)
    start = None if init is None else load_model(find_model(init))
    make_folder(output)
    require_writable(output)
    if not resume and any((output / name).exists() for name in (CHECKPOINT, DESCRIPTION)):
        refuse(f"{output} holds a run; give --resume to go on with it, or choose another folder")
    with progress() as report:
        if plan_file is None:
            told = partial(report, "taking the fingerprint")
            chosen = make_plan(extract_fingerprint(read, fill_nonfinite=fill_nan, progress=told))
        else:
            chosen = read_plan(plan_file)
            chosen.require_dataset(read.channels, read.labels)
        settings = {"seed": seed, "clip_length": chosen.clip_length, **key_values(config)}
        settings |= {} if epochs is None else {"epochs": epochs}
        train_config = settings_of(TrainConfig, settings)
        model_config = settings_of(
            ModelConfig,
            {
                "in_channels": chosen.in_channels,
                "num_classes": chosen.num_classes,
                "encoder": chosen.encoder,
                "stem_stride": chosen.stem_stride,
                **key_values(network),
            },
        )
        if start is not None and dict(start.plan.get("labels", {})) != chosen.labels:
            note(f"{init} knows other classes: what depends on them begins anew")
        cases = load_cases(read, names, chosen, fill_nonfinite=fill_nan, report=report)
        scored = load_cases(read, held_out[:6], chosen, fill_nonfinite=fill_nan, report=report)
        info = {
            "dataset": read.name,
            "fold": fold,
            "training_cases": len(names),
            "command": " ".join(["s2vnet", *(a for a in sys.argv[1:] if a != "--resume")]),
            "date": datetime.date.today().isoformat(),
            "version": __version__,
        }
        try:
            run_training(
                cases,
                scored,
                chosen,
                model_config,
                train_config,
                output,
                device=device,
                devices=devices,
                nodes=nodes,
                workers=workers,
                resume=resume,
                init=start,
                info=info,
                report=report,
            )
        except KeyboardInterrupt:
            typer.echo(f"{output}: continue this run with --resume", err=True)
            raise typer.Exit(130) from None
    if validation and held_out:
        from lightning_fabric.utilities.rank_zero import rank_zero_only

        if devices * nodes == 1 or getattr(rank_zero_only, "rank", 0) == 0:  # the first of several processes alone
            _validate(output, read, held_out, device, fill_nan)


app.command()(export)
app.command()(predict)


@app.command()
def interact(
    context: typer.Context,
    model: Model,
    input: Annotated[Path, typer.Option("-i", "--input", help="Image or DICOM folder.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Label file to write (of a DICOM series also .dcm).")],
    log: Annotated[Path | None, typer.Option(help="Prompt log: replayed if it exists, then kept up to date.")] = None,
    point: Annotated[list[str] | None, typer.Option("--point", help="CLASS,I,J,K: this voxel is CLASS.")] = None,
    negative: Annotated[list[str] | None, typer.Option("--not", help="CLASS,I,J,K: this voxel is not CLASS.")] = None,
    series: Series = None,
    device: Device = "auto",
    runtime: Runtime = "torch",
    fill_nan: Fill = None,
) -> None:
    """Correct a segmentation by prompts, from options, a saved log, or typed in.

    Without --point and --not, commands are read line by line: point CLASS I J K, not CLASS I J K,
    scribble CLASS I J K I J K ..., lasso CLASS I J K I J K ... (corners on one slice), box CLASS I J K I J K,
    mask CLASS FILE, lock CLASS, unlock CLASS, remove N, undo, redo, list, quit. With a log that exists they are read
    from a terminal only.

    Example: s2vnet interact -m abdomen-ct -i scan.nii.gz -o labels.nii.gz --point liver,120,80,60
    """
    from s2vnet.data.dataset import find_channel_files
    from s2vnet.errors import InputError
    from s2vnet.inference.label_writers import require_format, write_result
    from s2vnet.interactive.session import Session
    from s2vnet.interactive.text_commands import COMMANDS, run_command
    from s2vnet.io.dicom.series import select_series
    from s2vnet.io.files import read_image
    from s2vnet.utils.atomic_write import require_writable

    source = context.with_resource(select_series(input, series))
    images = find_channel_files(source) or (source,)
    require_format(output, images[0])
    if output.resolve() in [image.resolve() for image in images]:
        refuse(f"{output}: the labels would replace the image; choose another output")
    if log is not None and log.resolve() in [path.resolve() for path in (output, *images)]:
        refuse(f"{log}: the log needs a file of its own")
    for path in (output, *([log] if log else [])):  # found out now, not when prompts have been given
        require_writable(path.parent)
    segmenter = load_segmenter([model], device, runtime)
    with progress() as report:
        files = images if len(images) > 1 else images[0]
        volume = read_image(files, fill_nonfinite=fill_nan, frames_as_channels=len(segmenter.plan.channels) > 1)
        session = Session(segmenter, volume, lambda done, total: report("encoding", done, total))
    for text in session.training_differences:
        note(f"unlike the training data: {text}")
    if log is not None and log.exists():
        session.replay(log)
    for text in (*(point or ()), *(negative or ())):
        if text.count(",") < 3:
            refuse(f"{text!r}: a point is given as CLASS,I,J,K")
    given = [f"point {p}".replace(",", " ") for p in point or ()]
    given += [f"not {p}".replace(",", " ") for p in negative or ()]
    prompting = not given and (log is None or not log.exists() or sys.stdin.isatty())
    interrupted = False
    if prompting and sys.stdin.isatty():
        classes = ", ".join(f"{k} {name}" for k, name in segmenter.class_names.items())
        typer.echo(f"commands: {COMMANDS}\nclasses: {classes}; voxels are I J K of the file", err=True)
    try:
        for line in _lines() if prompting else given:
            try:
                answer = run_command(session, line)
            except InputError as error:
                if not sys.stdin.isatty() or not prompting:  # nobody there who could correct it
                    raise
                typer.echo(f"error: {error}", err=True)
                continue
            if answer is None:
                break
            if answer:
                typer.echo(answer)
            if log is not None and prompting:
                session.save_log(log)
    except KeyboardInterrupt:
        interrupted = True  # what was prompted so far is worth keeping
    if log is not None:
        session.save_log(log)
    write_result(output, session.result, segmenter.class_names, images[0], corrected=bool(session.log))
    for text in session.notes:
        note(text)
    typer.echo(f"{output}: {len(session.log)} prompts")
    if interrupted:
        raise typer.Exit(130)


@app.command()
def evaluate(
    input: Annotated[Path, typer.Option("-i", "--input", help="Predicted labels; with --interactive, images.")],
    labels: Annotated[Path, typer.Option("-g", "--labels", help="True labels of the same names.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Report (.json); tables are written beside (.md).")],
    interactive: Annotated[bool, typer.Option("--interactive", help="Let a simulated user correct a model.")] = False,
    model: Annotated[str | None, typer.Option("-m", "--model", help="Model, for --interactive.")] = None,
    rounds: Annotated[int, typer.Option(help="Rounds of one click per class.", min=1)] = 5,
    jitter: Annotated[float, typer.Option(help="Standard deviation of clicks in mm.", min=0)] = 0.0,
    negative_clicks: Annotated[bool, typer.Option("--negative-clicks", help="Answer excess by 'not CLASS'.")] = False,
    classes: Annotated[str | None, typer.Option(help="Class names in order of label values from 1.")] = None,
    device: Device = "auto",
    fill_nan: Fill = None,
) -> None:
    """Score predictions, or a model under a simulated user.

    Example: s2vnet evaluate -i predictions -g labelsTr -o report.json

    Example: s2vnet evaluate --interactive -m hippocampus-mr -i imagesTr -g labelsTr -o report.json
    """
    from s2vnet.evaluation.report import markdown, write_report
    from s2vnet.utils.atomic_write import require_writable

    if output.suffix != ".json":
        refuse(f"{output}: the report must be named .json")
    require_writable(output.parent)
    if interactive:
        from s2vnet.evaluation.validate import validate

        if model is None:
            refuse("--interactive needs a model: -m NAME_OR_DIR")
        segmenter = load_segmenter([model], device)
        pairs = _paired(input, labels)
        with progress() as report:
            found = validate(
                segmenter,
                _labelled(pairs, fill_nan, len(segmenter.plan.channels) > 1),
                rounds=rounds,
                jitter_mm=jitter,
                false_positive_click="negative" if negative_clicks else "true-class",
                done=counter(report, "evaluating", len(pairs)),
            )
    else:
        found = _compare(_paired(input, labels), classes)
    write_report(output, found)
    typer.echo(markdown(found, cases=False))


app.command()(view)
app.command()(serve)


@app.command("export-log")
def export_log(
    log: Annotated[Path, typer.Argument(help="Prompt log of `interact --log`.")],
    output: Annotated[Path, typer.Option("-o", "--output", help=".csv or .md file.")],
) -> None:
    """Write a prompt log as a table: one row per prompt.

    Example: s2vnet export-log prompts.json -o prompts.csv
    """
    from s2vnet.interactive.text_commands import write_table

    write_table(log, output)
    typer.echo(str(output))


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for what is made.")] = Path("demo"),
    scene: Annotated[str, typer.Option(help="abdomen (CT, 13 organs) or hippocampus (MR).")] = "abdomen",
    device: Device = "auto",
) -> None:
    """Segment a public image automatically, then correct it by simulated clicks.

    Example: s2vnet demo -o demo
    """
    from s2vnet.demo.run import SCENES, run_demo

    if scene not in SCENES:
        refuse(f"no scene {scene!r}; choose one of {', '.join(SCENES)}")
    make_folder(output)
    result = run_demo(output, device, scene, say=typer.echo)
    full = result.seconds_automatic / max(1e-9, sum(result.seconds) / max(1, len(result.seconds)))
    typer.echo(f"a round costs 1/{full:.0f} of encoding and segmenting anew; see {output / 'overlay.png'}")


def main() -> None:
    """Entry point: any expected error becomes one line and exit code 1; an interrupt 130."""
    # read when torch loads: else its threads spin while they wait, which on a busy machine costs tens of times more
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        code = app(standalone_mode=False)  # the exit code of a command that left early, else None
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        from s2vnet.errors import S2VNetError
        from s2vnet.utils.memory import is_out_of_memory, out_of_memory

        error = out_of_memory(error) if is_out_of_memory(error) else error
        if isinstance(error, S2VNetError):
            typer.echo(f"error: {error}", err=True)
            sys.exit(1)
        if isinstance(error, OSError) and error.filename:
            typer.echo(f"error: {error.filename}: {error.strerror}", err=True)
            sys.exit(1)
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()
        sys.exit(2)
    if code == 130:
        typer.echo("interrupted; nothing half-written is left", err=True)
    sys.exit(code)


def _one_of(dataset: Path | None, named: Path | None) -> Path:
    if (dataset is None) == (named is None):
        refuse("name one dataset folder, as an argument or by -d")
    return dataset or named  # type: ignore[return-value]


def _fold(
    fold: str, dataset: Dataset, read: Callable[[Dataset], list[dict[str, list[str]]]]
) -> tuple[list[str], list[str]]:
    if fold == "all":
        return [case.name for case in dataset.training], []
    splits = read(dataset)
    if not fold.isdecimal() or int(fold) >= len(splits):
        refuse(f"no fold {fold!r}; choose 0 to {len(splits) - 1}, or all")
    return splits[int(fold)]["train"], splits[int(fold)]["val"]


def _validate(folder: Path, dataset: Dataset, names: list[str], device: str, fill: float | None) -> None:
    """Score the held-out cases of a run in both modes: validation.json in its folder."""
    from s2vnet.evaluation.report import markdown, write_report
    from s2vnet.evaluation.validate import LabelledCase, validate

    def cases() -> Iterator[LabelledCase]:
        for name in names:
            volume, labels = dataset.read(dataset.case(name), fill_nonfinite=fill)
            assert labels is not None
            yield name, volume, labels

    with progress() as report:
        done = counter(report, "validating", len(names))
        found = validate(load_segmenter([str(folder)], device), cases(), done=done)
    write_report(folder / "validation.json", found)
    typer.echo(markdown(found, cases=False))


def _paired(images: Path, labels: Path) -> list[tuple[str, tuple[Path, ...], Path]]:
    """Cases of `images` that have a label file of the same name."""
    from s2vnet.data.dataset import find_case_files

    if images.is_file() and labels.is_file():
        return [(images.name.split(".")[0], (images,), labels)]
    for folder in (images, labels):
        if not folder.is_dir():
            refuse(f"{folder}: give two folders, or two files")
    truths = {case.name: case.images[0] for case in find_case_files(labels)}
    cases = [case for case in find_case_files(images) if not _is_extra(case.name, truths)]
    missing = [case.name for case in cases if case.name not in truths]
    if missing:
        refuse(f"{labels}: no labels for {', '.join(missing[:5])}")
    left = sorted(truths.keys() - {case.name for case in cases})
    if left:
        shown = ", ".join(left[:5]) + (", ..." if len(left) > 5 else "")
        note(f"{len(left)} of {len(truths)} labelled cases are not in {images}: {shown}")
    return [(case.name, case.images, truths[case.name]) for case in cases]


def _is_extra(name: str, truths: dict[str, Path]) -> bool:
    """Whether a file is what `predict --probabilities --uncertainty` writes beside a case's labels."""
    return any(name.endswith(end) and name.removesuffix(end) in truths for end in ("_probabilities", "_uncertainty"))


def _labelled(pairs: list[tuple[str, tuple[Path, ...], Path]], fill: float | None, frames: bool) -> Iterator[Any]:
    from s2vnet.io.files import read_image, read_labels

    for name, images, truth in pairs:
        yield name, read_image(images, fill_nonfinite=fill, frames_as_channels=frames), read_labels(truth)


def _compare(pairs: list[tuple[str, tuple[Path, ...], Path]], names: str | None) -> dict[str, Any]:
    import numpy as np

    from s2vnet.evaluation.report import automatic_report
    from s2vnet.io.files import read_labels
    from s2vnet.metrics.segmentation import class_metrics

    scores, found = {}, set()
    with progress() as report:
        done = counter(report, "evaluating", len(pairs))
        for name, files, truth_file in pairs:
            predicted, truth = read_labels(files[0]), read_labels(truth_file)
            truth.geometry.require_same_grid(predicted.geometry, f"{name}: labels and prediction")
            classes = sorted((set(np.unique(truth.data).tolist()) | set(np.unique(predicted.data).tolist())) - {0})
            found |= set(classes)
            scores[name] = class_metrics(predicted.data, truth.data, classes, truth.geometry.spacing)
            done(name)
    listed = [] if names is None else [part.strip() for part in names.split(",")]
    return automatic_report(scores, {k: listed[k - 1] if k <= len(listed) else str(k) for k in sorted(found)})


def _lines() -> Iterator[str]:
    for line in sys.stdin:
        yield line.strip()


if __name__ == "__main__":
    main()
