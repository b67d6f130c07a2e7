"""``s2vnet train``."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s2vnet._version import __version__
from s2vnet.cli.console import Report, count_cases, note, progress
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
from s2vnet.data.dataset import Dataset, read_dataset, select_fold
from s2vnet.errors import InputError
from s2vnet.utils.atomic_write import require_writable
from s2vnet.utils.extras import require_extra
from s2vnet.utils.folders import make_folder
from s2vnet.utils.lazy_import import LazyModule

if TYPE_CHECKING:
    import s2vnet.data.plan as data_plan
    import s2vnet.evaluation.report as reports
    import s2vnet.evaluation.validate as validation
    import s2vnet.inference.segmenter as inference
    from s2vnet.data import fingerprint
    from s2vnet.model import checkpoint
else:
    fingerprint = LazyModule("s2vnet.data.fingerprint")
    data_plan = LazyModule("s2vnet.data.plan")
    reports = LazyModule("s2vnet.evaluation.report")
    validation = LazyModule("s2vnet.evaluation.validate")
    inference = LazyModule("s2vnet.inference.segmenter")
    checkpoint = LazyModule("s2vnet.model.checkpoint")


def train(
    output: Annotated[Path, typer.Option("-o", "--output", help="Run folder.")],
    dataset: DatasetArgument = None,
    named: DatasetOption = None,
    fold: Annotated[str, typer.Option("-f", "--fold", help="0 to 4, or all: train on every case.")] = "0",
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the run folder's checkpoint.")] = False,
    init: Annotated[str | None, typer.Option(help="Start from a trained model (name or folder).")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of 50 steps; the default is 48.")] = None,
    plan_file: Annotated[Path | None, typer.Option("--plan", help="Edited plan.json; default: a new plan.")] = None,
    config: Annotated[list[str] | None, typer.Option("-c", "--config", help="Training setting KEY=VALUE.")] = None,
    network: Annotated[list[str] | None, typer.Option("-n", "--network", help="Network setting KEY=VALUE.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, clips and simulated users.")] = 0,
    device: Device = "auto",
    devices: Annotated[int, typer.Option(min=1, help="Processes; more than one train data-parallel.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Machines that run this command together (torchrun, SLURM).")] = 1,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that prepare clips, for training on a GPU.")
    ] = None,
    validation: Annotated[bool, typer.Option(help="Score the fold's held-out cases at the end, in both modes.")] = True,
    fill_nan: Fill = None,
) -> None:
    """Train one network for automatic and interactive use.

    Example: s2vnet train Dataset004_Hippocampus -f 0 -o runs/hippocampus-f0
    """
    require_extra("train", "training", "lightning_fabric", "tensorboard")
    from s2vnet.training.resume_state import CHECKPOINT
    from s2vnet.training.trainer import load_cases
    from s2vnet.training.trainer import train as run_training

    source = read_dataset(dataset_folder(dataset, named))
    training, held_out = select_fold(source, fold)
    initial = None if init is None else checkpoint.load_model(inference.find_model(init))
    make_folder(output)
    require_writable(output)
    if not resume and any((output / name).exists() for name in (CHECKPOINT, checkpoint.DESCRIPTION)):
        raise InputError(f"{output} holds a run; give --resume to continue it, or choose another folder")
    with progress() as report:
        plan = _read_or_make_plan(source, plan_file, fill_nan, report)
        settings = {"seed": seed, "clip_length": plan.clip_length, **key_values(config)}
        settings |= {} if epochs is None else {"epochs": epochs}
        train_config = validate_settings(TrainConfig, settings)
        model_config = _model_config(plan, network)
        if initial is not None and dict(initial.plan.get("labels", {})) != plan.labels:
            note(f"{init} has other classes: the weights that depend on them are initialized anew")
        cases = load_cases(source, training, plan, fill_nonfinite=fill_nan, report=report)
        scored = load_cases(source, held_out[:6], plan, fill_nonfinite=fill_nan, report=report)
        try:
            run_training(
                cases,
                scored,
                plan,
                model_config,
                train_config,
                output,
                device=device,
                devices=devices,
                nodes=nodes,
                workers=workers,
                resume=resume,
                init=initial,
                info=_run_info(source, fold, len(training)),
                report=report,
            )
        except KeyboardInterrupt:
            typer.echo(f"{output}: continue this run with --resume", err=True)
            raise typer.Exit(130) from None
    if validation and held_out and (devices * nodes == 1 or _is_first_process()):
        _validate(output, source, held_out, device, fill_nan)


def _read_or_make_plan(dataset: Dataset, file: Path | None, fill_nan: float | None, report: Report) -> data_plan.Plan:
    if file is None:
        progress = partial(report, "taking the fingerprint")
        return data_plan.make_plan(fingerprint.extract_fingerprint(dataset, fill_nonfinite=fill_nan, progress=progress))
    plan = data_plan.read_plan(file)
    plan.require_dataset(dataset.channels, dataset.labels)
    return plan


def _model_config(plan: data_plan.Plan, options: Sequence[str] | None) -> ModelConfig:
    names = ("in_channels", "num_classes", "encoder", "stem_stride")
    return validate_settings(ModelConfig, {name: getattr(plan, name) for name in names} | key_values(options))


def _run_info(dataset: Dataset, fold: str, training_cases: int) -> dict[str, Any]:
    """Information about data and command for ``model.json``."""
    return {
        "dataset": dataset.name,
        "fold": fold,
        "training_cases": training_cases,
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
        scores = validation.validate(inference.Segmenter.from_pretrained(folder, device=device), cases(), done=done)
    reports.write_report(folder / "validation.json", scores)
    typer.echo(reports.markdown(scores, cases=False))
