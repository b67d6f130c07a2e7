"""Training of a network: setup, training loop, final model. Devices and precision are handled by Fabric.

Clips and the learning rate are functions of the step, so a resumed run equals an uninterrupted one
exactly (on the CPU of one machine), and several processes train on the same clips as one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader

from s2vnet.config import ModelConfig, TrainConfig
from s2vnet.data.clips import Clip, ClipDataset, collate
from s2vnet.data.dataset import Dataset
from s2vnet.data.plan import Plan, save_json
from s2vnet.data.preprocess import Case, preprocess
from s2vnet.errors import InputError
from s2vnet.model.checkpoint import TrainedModel, choose_device, save_model
from s2vnet.model.s2vnet import S2VNet
from s2vnet.training.initialization import load_imagenet_encoder, load_initial_weights
from s2vnet.training.interrupts import deferred_interrupts, ignore_interrupts
from s2vnet.training.losses import class_weights
from s2vnet.training.optimization import learning_rate, make_average, make_optimizer
from s2vnet.training.resume_state import CHECKPOINT, TrainingState, load_checkpoint, save_checkpoint
from s2vnet.training.run_data import CASES, RunData
from s2vnet.training.step import ClipStep
from s2vnet.training.validation_scores import QUICK_CASES, quick_scores
from s2vnet.utils.cpu import available_cores
from s2vnet.utils.memory import keep_freed_memory, peak_memory_mb

PLAN = "plan.json"

Report = Callable[[str, int, int], None]
"""Progress callback: task, number of items done, total."""
EpochDone = Callable[[dict[str, float]], None]
"""Callback with ``step``, ``loss``, ``learning_rate``, ``seconds`` and, after some epochs, ``dice``."""


def train(
    cases: Sequence[Case],
    validation: Sequence[Case],
    plan: Plan,
    model_config: ModelConfig,
    config: TrainConfig,
    folder: Path,
    *,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    workers: int | None = None,
    resume: bool = False,
    init: TrainedModel | None = None,
    data: RunData | None = None,
    info: dict[str, Any] | None = None,
    report: Report = lambda what, done, total: None,
    epoch_done: EpochDone = lambda row: None,
) -> TrainedModel:
    """Train a network and write it to `folder`.

    Args:
        cases: preprocessed, with labels.
        validation: cases to score during training; may be empty.
        plan: preprocessing of the cases.
        model_config: configuration of the network.
        config: configuration of the training.
        folder: existing output folder for ``plan.json``, ``model.*``, ``checkpoint.pt``, ``history.json``, curves,
            overlays and TensorBoard files.
        device: auto, cpu, cuda or mps.
        devices: processes on this machine; more than one for data-parallel training (DDP).
        nodes: machines, each of which calls this function, with ``MASTER_ADDR``, ``MASTER_PORT``, ``NODE_RANK`` and
            ``LOCAL_RANK`` set as torchrun and SLURM set them.
        workers: worker processes that load clips, per process. By default one per spare core beside a GPU, and none on
            a CPU. The result does not depend on it.
        resume: continue from ``checkpoint.pt`` if there is one.
        init: trained network to start from; not needed to resume.
        data: record of the cases, written to ``cases.json``; a checkpoint with another record is refused.
        info: data and command, recorded in ``model.json``.
        report: progress callback.
        epoch_done: called with the row of ``history.json`` of each epoch, on the first process.

    Raises:
        InputError: no labelled cases, a network that fits neither the plan nor `init`, or a batch size that is not a
            multiple of the number of processes.
        CheckpointError: the device is not available, or the checkpoint is damaged or of another configuration.
        KeyboardInterrupt: training was interrupted; its checkpoint has been written, continue with `resume`.
    """
    keep_freed_memory()
    processes = devices * nodes
    if config.batch_size % processes:
        raise InputError(f"a batch of {config.batch_size} clips cannot be shared by {processes} processes")
    for name, required in plan.network.items():
        value = getattr(model_config, name)
        if value != required:
            raise InputError(f"setting {name}: {value}, but the plan needs {required}; edit the plan instead")
    if not any(case.labels is not None for case in cases):
        raise InputError("no labelled cases to train on; check the dataset and the fold")
    fabric = Fabric(
        accelerator=choose_device(device).type,
        devices=devices,
        num_nodes=nodes,
        strategy=_strategy(model_config, config) if processes > 1 else "auto",
        precision=config.precision,
    )
    if processes > 1:
        fabric.launch()
    if workers is None:
        workers = max(0, available_cores() // devices - 1) if fabric.device.type == "cuda" else 0
    run, step = _setup(fabric, model_config, config, init, plan, cases)
    signature: dict[str, Any] = {
        "plan": plan.model_dump(mode="json"),
        "model": model_config.model_dump(),
        "train": config.model_dump(),
        "start": {"init_sha256": "" if init is None else init.sha256},
        "data": {"sha256": "" if data is None else data.digest()},
    }
    if resume:
        load_checkpoint(run, folder / CHECKPOINT, signature)
    if fabric.is_global_zero:
        save_json(plan, folder / PLAN)  # after all checks: a refused call leaves an earlier run as it was
        if data is not None:
            save_json(data, folder / CASES)
    _fit(fabric, run, step, cases, validation, plan, config, folder, signature, workers, report, epoch_done)
    trained = S2VNet(model_config).eval()
    trained.load_state_dict(run.ema.module.state_dict())
    if fabric.is_global_zero:
        start = signature["start"] if signature["start"]["init_sha256"] else {}
        details = {**(info or {}), **start, "steps": run.step, "train": config.model_dump()}
        details["torch"] = str(torch.__version__)
        save_model(folder, trained, signature["plan"], details)
    fabric.barrier()
    return TrainedModel(trained, signature["plan"], info or {}, "")


def load_cases(
    dataset: Dataset, names: Sequence[str], plan: Plan, *, fill_nonfinite: float | None = None, report: Report
) -> list[Case]:
    """Read and preprocess cases by name."""
    cases = []
    for number, name in enumerate(names):
        volume, labels = dataset.read(dataset.case(name), fill_nonfinite=fill_nonfinite)
        cases.append(preprocess(volume, plan, labels, name))
        report("reading cases", number + 1, len(names))
    return cases


def _strategy(model_config: ModelConfig, config: TrainConfig) -> str:
    """DDP strategy; the aggregation gate has no gradient where no aggregated centre reaches a loss."""
    gated = model_config.propagation == "aggregated" and config.clip_length > 1
    return "ddp" if gated else "ddp_find_unused_parameters_true"


def _setup(
    fabric: Fabric,
    model_config: ModelConfig,
    config: TrainConfig,
    init: TrainedModel | None,
    plan: Plan,
    cases: Sequence[Case],
) -> tuple[TrainingState, Any]:
    """Build the training state, and the step module as wrapped by Fabric."""
    torch.manual_seed(config.seed)
    model = S2VNet(model_config)
    if init is not None:
        load_initial_weights(model, init, plan.labels)
    elif config.pretrained:
        load_imagenet_encoder(model)
    counts = [
        np.bincount(case.labels.ravel(), minlength=plan.num_classes)[: plan.num_classes]  # without ignored pixels
        for case in cases
        if case.labels is not None
    ]
    weights = class_weights(np.sum(counts, 0).tolist(), config.rarity_exponent) if config.rarity_exponent else None
    step, optimizer = fabric.setup(ClipStep(model, config, weights), make_optimizer(model, config))
    return TrainingState(0, model, make_average(model, config), optimizer), step


def _fit(
    fabric: Fabric,
    run: TrainingState,
    step: Any,
    cases: Sequence[Case],
    validation: Sequence[Case],
    plan: Plan,
    config: TrainConfig,
    folder: Path,
    signature: dict[str, Any],
    workers: int,
    report: Report,
    epoch_done: EpochDone,
) -> None:
    """Run the training loop from ``run.step`` to its end; `step` is the module that Fabric has wrapped."""
    from s2vnet.training.logging import TrainingLogger

    total = config.epochs * config.steps_per_epoch
    batches, loader = _clip_loader(fabric, cases, plan, config, range(run.step, total), workers)
    logger = TrainingLogger(folder, run.history) if fabric.is_global_zero else None
    saved = time.monotonic()
    started = time.monotonic() - run.spent[0], time.process_time() - run.spent[1]
    losses: list[Tensor] = []
    with deferred_interrupts() as interrupted:
        for indices, clip in zip(batches, loader, strict=True):
            rate = learning_rate(run.step, run.step / total, config)
            losses.append(_optimize(fabric, run, step, indices, fabric.to_device(clip), rate, config.gradient_clip))
            report("training", run.step, total)
            if run.step % config.steps_per_epoch == 0:
                mean = float(fabric.all_reduce(torch.stack(losses).mean()))  # type: ignore[arg-type]
                losses = []
                row = {"step": run.step, "loss": mean, "learning_rate": rate, **_cost(started)}
                epoch = run.step // config.steps_per_epoch
                if logger is not None:
                    if epoch % max(1, config.epochs // 5) == 0:
                        row |= quick_scores(run.ema, validation[:QUICK_CASES], signature["plan"], folder)
                    run.history.append(row)
                    logger.write(run.history)
                    epoch_done(row)
            due = time.monotonic() - saved > 60 * config.checkpoint_minutes
            stop = bool(fabric.broadcast(interrupted()))
            if logger is not None and (due or stop or run.step == total):
                run.spent = time.monotonic() - started[0], time.process_time() - started[1]
                save_checkpoint(run, folder / CHECKPOINT, signature)
                saved = time.monotonic()
            if stop:
                fabric.barrier()  # wait for the checkpoint: the first process to exit ends all others
                raise KeyboardInterrupt


def _clip_loader(
    fabric: Fabric, cases: Sequence[Case], plan: Plan, config: TrainConfig, steps: range, workers: int
) -> tuple[list[list[int]], DataLoader[Clip]]:
    """Clip numbers of this process per step, and the loader of their batches."""
    size, share = config.batch_size, config.batch_size // fabric.world_size
    first = fabric.global_rank * share
    batches = [list(range(s * size + first, s * size + first + share)) for s in steps]
    loader = DataLoader(
        ClipDataset(cases, plan.patch_size, plan.context_slices, config, steps.stop * size),
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=fabric.device.type == "cuda",
        worker_init_fn=ignore_interrupts,
    )
    return batches, loader


def _optimize(
    fabric: Fabric, run: TrainingState, step: Any, indices: list[int], clips: Clip, rate: float, gradient_clip: float
) -> Tensor:
    """Take one optimizer step on a batch of clips; return the loss."""
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    loss: Tensor = step(clips.slices, clips.labels, clips.step, torch.tensor(indices))
    run.optimizer.zero_grad()
    fabric.backward(loss)
    fabric.clip_gradients(step, run.optimizer, max_norm=gradient_clip)
    run.optimizer.step()
    run.ema.update_parameters(run.model)
    run.step += 1
    return loss.detach()


def _cost(started: tuple[float, float]) -> dict[str, float]:
    """Seconds and CPU seconds since `started`, and the peak memory of this process in MiB where it is known."""
    cost = {"seconds": time.monotonic() - started[0], "cpu_seconds": time.process_time() - started[1]}
    peak = peak_memory_mb()
    return cost if peak is None else {**cost, "peak_mb": peak}
