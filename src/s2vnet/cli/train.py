"""``s2vnet train``."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s2vnet._version import __version__
from s2vnet.cli.console import Clock, Report, count_cases, duration, is_terminal, note, progress
from s2vnet.cli.options import (
    DatasetArgument,
    DatasetOption,
    Device,
    Fill,
    dataset_folder,
    key_values,
    validate_settings,
)
from s2vnet.config import ModelConfig, TrainConfig
from s2vnet.data.dataset import Dataset, read_dataset
from s2vnet.data.header_notes import header_notes
from s2vnet.errors import InputError
from s2vnet.utils.atomic_write import require_writable
from s2vnet.utils.extras import require_extra
from s2vnet.utils.folders import make_folder
from s2vnet.utils.lazy_import import LazyModule

if TYPE_CHECKING:
    import s2vnet.data.plan as data_plan
    import s2vnet.data.preprocess as preprocessing
    import s2vnet.evaluation.report as reports
    import s2vnet.evaluation.validate as validation
    import s2vnet.inference.segmenter as inference
    from s2vnet.data import fingerprint
    from s2vnet.model import checkpoint
    from s2vnet.training import run_data, step_time
else:
    fingerprint = LazyModule("s2vnet.data.fingerprint")
    data_plan = LazyModule("s2vnet.data.plan")
    reports = LazyModule("s2vnet.evaluation.report")
    validation = LazyModule("s2vnet.evaluation.validate")
    inference = LazyModule("s2vnet.inference.segmenter")
    checkpoint = LazyModule("s2vnet.model.checkpoint")
    run_data = LazyModule("s2vnet.training.run_data")
    step_time = LazyModule("s2vnet.training.step_time")


def train(
    output: Annotated[Path, typer.Option("-o", "--output", help="Run folder.")],
    dataset: DatasetArgument = None,
    named: DatasetOption = None,
    fold: Annotated[
        str | None, typer.Option("-f", "--fold", help="0 (default) to 4, or all: train on every case.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the run folder's checkpoint.")] = False,
    init: Annotated[str | None, typer.Option(help="Start from a trained model (name or folder).")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of 50 steps; the default is 48.")] = None,
    hours: Annotated[
        float | None, typer.Option(min=0, help="Hours on this machine; a few steps are measured to set --epochs.")
    ] = None,
    plan_file: Annotated[Path | None, typer.Option("--plan", help="Edited plan.json; default: a new plan.")] = None,
    config: Annotated[list[str] | None, typer.Option("-c", "--config", help="Training setting KEY=VALUE.")] = None,
    network: Annotated[list[str] | None, typer.Option("-n", "--network", help="Network setting KEY=VALUE.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights and clips.")] = 0,
    device: Device = "auto",
    devices: Annotated[int, typer.Option(min=1, help="Processes; more than one train data-parallel.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Machines that run this command together (torchrun, SLURM).")] = 1,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that prepare clips, for training on a GPU.")
    ] = None,
    validation: Annotated[bool, typer.Option(help="Score the fold's held-out cases at the end, in both modes.")] = True,
    fill_nan: Fill = None,
) -> None:
    """Train one network.

    Example: s2vnet train Dataset004_Hippocampus -f 0 -o runs/hippocampus-f0
    """
    require_extra("train", "training", "lightning_fabric", "tensorboard")
    from s2vnet.training.resume_state import CHECKPOINT, saved_epochs
    from s2vnet.training.trainer import PLAN, Hardware, Trainer, load_cases

    given = {"seed": seed, **key_values(config), **({} if epochs is None else {"epochs": epochs})}
    validate_settings(TrainConfig, given)  # before the dataset is read
    if hours is not None and ("epochs" in given or devices * nodes > 1):
        raise InputError("--hours sets the epochs, by the speed of one process; leave out --epochs and --devices")
    source = read_dataset(dataset_folder(dataset, named))
    for text in source.notes:
        note(text)
    initial = None if init is None else checkpoint.load_model(inference.find_model(init))
    make_folder(output)
    require_writable(output)
    begun = any((output / name).exists() for name in (CHECKPOINT, checkpoint.DESCRIPTION))
    if begun and not resume:
        raise InputError(f"{output} holds a run; give --resume to continue it, or choose another folder")
    with progress() as report:
        data = _run_data(output if begun else None, source, fold, fill_nan, report)
        for text in header_notes([source.case(name) for name in data.cases]):
            note(text)
        if begun and plan_file is None and (output / PLAN).exists():
            plan_file = output / PLAN
        plan = _read_or_make_plan(source, plan_file, fill_nan, report)
        train_config = validate_settings(TrainConfig, {"clip_length": plan.clip_length, **given})
        model_config = _model_config(plan, network)
        if initial is not None and dict(initial.plan.get("labels", {})) != plan.labels:
            note(f"{init} has other classes: the weights that depend on them are initialized anew")
        cases = load_cases(source, data.training, plan, fill_nonfinite=fill_nan, report=report)
        scored = load_cases(source, data.held_out[:6], plan, fill_nonfinite=fill_nan, report=report)
        if devices * nodes == 1 and not begun:
            train_config = _schedule(cases, plan, model_config, train_config, device, hours)
        elif hours is not None and (epochs_of_run := saved_epochs(output / CHECKPOINT)) is not None:
            train_config = train_config.model_copy(update={"epochs": epochs_of_run})
        try:
            hardware = Hardware(device, devices, nodes, workers)
            trainer = Trainer(cases, plan, model_config, train_config, hardware, init=initial, data=data)
            trainer.run(
                output,
                scored,
                resume=resume,
                info=_run_info(source, data),
                report=report,
                epoch_done=_epoch_lines(train_config),
            )
        except KeyboardInterrupt:
            typer.echo(f"{output}: continue this run with --resume", err=True)
            raise typer.Exit(130) from None
    scored_cases = 0
    if validation and data.held_out and (devices * nodes == 1 or _is_first_process()):
        _validate(output, source, data.held_out, device, fill_nan)
        scored_cases = len(data.held_out)
    if _is_first_process():
        scores = f", validation.json and .md ({scored_cases} held-out cases)" if scored_cases else ""
        typer.echo(f"{output}: model.json, model.safetensors, history.json, curves.png{scores}; use it by -m {output}")


def _schedule(
    cases: Sequence[preprocessing.Case],
    plan: data_plan.Plan,
    model_config: ModelConfig,
    config: TrainConfig,
    device: str,
    hours: float | None,
) -> TrainConfig:
    """Measure a few steps and note the time of the training; with a budget of hours, set the epochs."""
    if not any(case.labels is not None for case in cases):
        return config  # training refuses them
    seconds = step_time.measure_step(cases, plan, model_config, config, device)
    if hours is not None:
        config = config.model_copy(update={"epochs": step_time.epochs_within(hours, seconds, config)})
    steps = config.epochs * config.steps_per_epoch
    kind = {"cpu": "CPU", "cuda": "GPU"}.get(checkpoint.choose_device(device).type, "GPU")
    schedule = f"{config.epochs} epochs, {steps} steps of {seconds:.2g} s"
    note(f"about {duration(steps * seconds)} on this {kind}: {schedule}; --hours sets a budget")
    return config


def _run_data(
    folder: Path | None, dataset: Dataset, fold: str | None, fill_nan: float | None, report: Report
) -> run_data.RunData:
    """Data of the run in a folder that has begun, with notes about the dataset; of a new one without a folder."""
    checked = partial(report, "checking files")
    if folder is None:
        return run_data.new_run_data(dataset, fold or "0", fill_nan, checked)
    data, notes = run_data.resumed_run_data(folder, dataset, fold, fill_nan, checked)
    for text in notes:
        note(text)
    return data


def _read_or_make_plan(dataset: Dataset, file: Path | None, fill_nan: float | None, report: Report) -> data_plan.Plan:
    if file is None:
        progress = partial(report, "taking the fingerprint")
        return data_plan.make_plan(fingerprint.extract_fingerprint(dataset, fill_nonfinite=fill_nan, progress=progress))
    plan = data_plan.read_plan(file)
    plan.require_dataset(dataset.channels, dataset.labels)
    return plan.model_copy(update={"regions": dict(dataset.regions)})


def _epoch_lines(config: TrainConfig) -> Callable[[dict[str, float]], None]:
    """Callback that prints a line per epoch with the time left, unless there is a progress bar."""
    if is_terminal():
        return lambda row: None
    clock = Clock()

    def show(row: dict[str, float]) -> None:
        epoch = int(row["step"]) // config.steps_per_epoch
        dice = f", Dice {row['dice']:.3f}" if "dice" in row else ""
        left = clock.left(epoch, config.epochs)
        typer.echo(f"epoch {epoch} of {config.epochs}: loss {row['loss']:.4f}{dice}, {left}")

    return show


def _model_config(plan: data_plan.Plan, options: Sequence[str] | None) -> ModelConfig:
    names = ("in_channels", "num_classes", "encoder", "stem_stride")
    return validate_settings(ModelConfig, {name: getattr(plan, name) for name in names} | key_values(options))


def _run_info(dataset: Dataset, data: run_data.RunData) -> dict[str, Any]:
    """Information about data and command for ``model.json``."""
    return {
        "dataset": dataset.name,
        **({} if dataset.licence is None else {"licence": dataset.licence}),
        "fold": data.fold,
        "training_cases": len(data.training),
        "training_case_names": list(data.training),
        "command": " ".join(["s2vnet", *(argument for argument in sys.argv[1:] if argument != "--resume")]),
        "date": datetime.date.today().isoformat(),
        "version": __version__,
    }


def _is_first_process() -> bool:
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    return getattr(rank_zero_only, "rank", 0) == 0


def _validate(folder: Path, dataset: Dataset, names: Sequence[str], device: str, fill_nan: float | None) -> None:
    """Score a run's held-out cases in both modes and write ``validation.json`` to its folder."""

    def cases() -> Iterator[validation.LabelledCase]:
        for name in names:
            volume, labels = dataset.read(dataset.case(name), fill_nonfinite=fill_nan)
            assert labels is not None
            yield name, volume, labels

    with progress() as report:
        done = count_cases(report, "validating", len(names))
        scores = validation.validate(
            inference.Segmenter.from_pretrained(folder, device=device, runtime="torch"), cases(), done=done
        )
    reports.write_report(folder / "validation.json", scores)
    typer.echo(reports.markdown(scores, cases=False))
