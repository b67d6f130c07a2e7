"""One training run: setup -> fit -> validate. Fabric removes devices and precision; the loop stays in sight.

Clips, simulated users and the learning rate are functions of the step, so a resumed run repeats an uninterrupted one
exactly (same machine, CPU), and several processes train on the same clips as one.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from s2vnet.config import ModelConfig, TrainConfig
from s2vnet.data.clips import ClipDataset, collate
from s2vnet.data.dataset import Dataset
from s2vnet.data.plan import Plan, save_json
from s2vnet.data.preprocess import Case, preprocess
from s2vnet.errors import CheckpointError, InputError
from s2vnet.inference.segmenter import Segmenter
from s2vnet.metrics.segmentation import dice
from s2vnet.model.checkpoint import LEGACY_MODEL_DEFAULTS, TrainedModel, choose_device, save_model
from s2vnet.model.clustering import argmax_class
from s2vnet.model.s2vnet import S2VNet
from s2vnet.training.initialization import load_imagenet_encoder, load_initial_weights
from s2vnet.training.losses import class_weights
from s2vnet.training.step import ClipStep
from s2vnet.utils.atomic_write import atomic_write, disk_errors
from s2vnet.utils.cpu import available_cores
from s2vnet.utils.memory import keep_freed_memory, peak_memory_mb

CHECKPOINT = "checkpoint.pt"
LEGACY_TRAINING_DEFAULTS = {"first_slice_fraction": 0.0}
"""What trainings did that began before these settings were there."""
PLAN = "plan.json"
QUICK_CASES = 6
"""Validation cases scored while training goes on; the whole fold is scored at its end."""

_Tensors = tuple[Tensor, ...] | list[Tensor]

Report = Callable[[str, int, int], None]
"""Told of (what, done, total)."""


@dataclass
class TrainingState:
    """What changes while training, and what a checkpoint holds."""

    step: int
    model: S2VNet
    ema: AveragedModel
    optimizer: torch.optim.Optimizer
    history: list[dict[str, float]] = field(default_factory=list)
    spent: tuple[float, float] = (0.0, 0.0)
    """Seconds and CPU seconds, those before an interrupt included."""


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
    info: dict[str, Any] | None = None,
    report: Report = lambda what, done, total: None,
) -> TrainedModel:
    """Train a network for both modes and write it to `folder`.

    Args:
        cases: with labels.
        validation: scored now and then; may be empty.
        plan: how the cases were prepared.
        model_config: the network.
        config: the training.
        folder: existing; gets ``plan.json``, ``model.*``, ``checkpoint.pt``, ``history.json``, curves, overlays, and
            TensorBoard files.
        device: auto, cpu, cuda or mps.
        devices: processes on this machine; more than one train data-parallel (DDP).
        nodes: machines, each of which calls this, with ``MASTER_ADDR``, ``MASTER_PORT``, ``NODE_RANK`` and
            ``LOCAL_RANK`` set as torchrun and SLURM set them.
        workers: processes beside each of these that prepare its clips, and as many that act for its simulated users;
            if None as many as there are cores to spare beside a GPU, and none on a CPU, where training itself takes
            all cores. Nothing but time depends on it.
        resume: continue from ``checkpoint.pt`` if there is one.
        init: a trained network to start from; a resumed run has started already.
        info: what `model.json` shall say about data and command.
        report: told of progress.

    Raises:
        InputError: no labelled cases, a network that is not for the plan or not like `init`, or a batch that does not
            divide by `devices`.
        CheckpointError: the device is not there, or the checkpoint is damaged or of another configuration.
        KeyboardInterrupt: after the state has been written; continue with `resume`.
    """
    keep_freed_memory()
    processes = devices * nodes
    if config.batch_size % processes:
        raise InputError(f"a batch of {config.batch_size} clips cannot be shared by {processes} processes")
    for name, needs in plan.network.items():
        has = getattr(model_config, name)
        if has != needs:
            raise InputError(f"setting {name}: {has}, but the plan needs {needs}; edit the plan instead")
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
    run, clip_step, step = _setup(fabric, model_config, config, init, plan, cases)
    signature: dict[str, Any] = {
        "plan": plan.model_dump(mode="json"),
        "model": model_config.model_dump(),
        "train": config.model_dump(),
        "start": {"init_sha256": "" if init is None else init.sha256},
    }
    if resume:
        _resume(run, folder / CHECKPOINT, signature)
    if fabric.is_global_zero:
        save_json(plan, folder / PLAN)  # not before: a refused call must leave an earlier run as it was
    with _helpers(workers) as clip_step.helpers:
        _fit(fabric, run, step, cases, validation, plan, config, folder, signature, workers, report)
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
    found = []
    for number, name in enumerate(names):
        volume, labels = dataset.read(dataset.case(name), fill_nonfinite=fill_nonfinite)
        found.append(preprocess(volume, plan, labels, name))
        report("reading cases", number + 1, len(names))
    return found


def _strategy(model_config: ModelConfig, config: TrainConfig) -> str:
    """DDP; where no aggregated centre reaches a loss, it must expect that the aggregation's gate has no gradient."""
    gated = model_config.propagation == "aggregated" and config.clip_length > 1
    return "ddp" if gated else "ddp_find_unused_parameters_true"


def _setup(
    fabric: Fabric,
    model_config: ModelConfig,
    config: TrainConfig,
    init: TrainedModel | None,
    plan: Plan,
    cases: Sequence[Case],
) -> tuple[TrainingState, ClipStep, Any]:
    """Model, its average, optimizer, and the step module by itself and as Fabric wraps it."""
    torch.manual_seed(config.seed)
    model = S2VNet(model_config)
    if init is not None:
        load_initial_weights(model, init, plan.labels)
    elif config.pretrained:
        load_imagenet_encoder(model)
    shown = [np.bincount(case.labels.ravel(), minlength=plan.num_classes) for case in cases if case.labels is not None]
    weights = class_weights(np.sum(shown, 0).tolist(), config.rarity_exponent) if config.rarity_exponent else None
    clip_step = ClipStep(model, config, weights)
    step, optimizer = fabric.setup(clip_step, make_optimizer(model, config))
    return TrainingState(0, model, make_average(model, config), optimizer), clip_step, step


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW with weight decay on matrices and filters alone."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate)


def make_average(model: nn.Module, config: TrainConfig) -> AveragedModel:
    """The exponential average of a model's weights."""

    def average(averaged: _Tensors, current: _Tensors, count: Tensor | int) -> None:
        # early on the average follows quickly, or a short run would keep its initial weights
        decay = min(config.ema_decay, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(averaged, current, 1 - decay)

    return AveragedModel(model, multi_avg_fn=average)


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
) -> None:
    from s2vnet.training.logging import TrainingLogger

    total = config.epochs * config.steps_per_epoch
    data = ClipDataset(cases, plan.patch_size, plan.context_slices, config, total * config.batch_size)
    size, share = config.batch_size, config.batch_size // fabric.world_size
    first = fabric.global_rank * share
    batches = [list(range(s * size + first, s * size + first + share)) for s in range(run.step, total)]
    loader = DataLoader(
        data,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=fabric.device.type == "cuda",
        worker_init_fn=_leave_interrupts,
    )
    writer = TrainingLogger(folder, run.history) if fabric.is_global_zero else None
    saved = time.monotonic()
    started = time.monotonic() - run.spent[0], time.process_time() - run.spent[1]
    losses: list[Tensor] = []
    with deferred_interrupts() as interrupted:
        for indices, clip in zip(batches, loader, strict=True):
            rate = learning_rate(run.step, run.step / total, config)
            for group in run.optimizer.param_groups:
                group["lr"] = rate
            clip = fabric.to_device(clip)
            loss = step(clip.slices, clip.labels, clip.step, torch.tensor(indices))
            run.optimizer.zero_grad()
            fabric.backward(loss)
            fabric.clip_gradients(step, run.optimizer, max_norm=config.gradient_clip)
            run.optimizer.step()
            run.ema.update_parameters(run.model)
            run.step += 1
            losses.append(loss.detach())
            report("training", run.step, total)
            if run.step % config.steps_per_epoch == 0:
                mean = float(fabric.all_reduce(torch.stack(losses).mean()))  # type: ignore[arg-type]
                losses = []
                row = {"step": run.step, "loss": mean, "learning_rate": rate, **_cost(started)}
                epoch = run.step // config.steps_per_epoch
                if writer is not None:
                    if epoch % max(1, config.epochs // 5) == 0:
                        row |= _quick_scores(run, validation[:QUICK_CASES], signature["plan"], folder)
                    run.history.append(row)
                    writer.write(run.history)
            due = time.monotonic() - saved > 60 * config.checkpoint_minutes
            stop = bool(fabric.broadcast(interrupted()))
            if writer is not None and (due or stop or run.step == total):
                run.spent = time.monotonic() - started[0], time.process_time() - started[1]
                _save(run, folder / CHECKPOINT, signature)
                saved = time.monotonic()
            if stop:
                fabric.barrier()  # a process that left now would take the one that writes with it
                raise KeyboardInterrupt


def _helpers(workers: int) -> AbstractContextManager[Executor | None]:
    """Processes for simulated users, or none."""
    if not workers:
        return nullcontext()
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_leave_interrupts)


def _leave_interrupts(worker: int = 0) -> None:
    """An interrupt is the training's to answer; its end ends the processes that help."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _cost(started: tuple[float, float]) -> dict[str, float]:
    """Seconds and CPU seconds since `started`, and this process's peak memory in MiB where the system tells."""
    found = {"seconds": time.monotonic() - started[0], "cpu_seconds": time.process_time() - started[1]}
    peak = peak_memory_mb()
    return found if peak is None else {**found, "peak_mb": peak}


def learning_rate(step: int, done: float, config: TrainConfig) -> float:
    """Linear warm-up, then polynomial decay with exponent 0.9 (nnU-Net's); `done` is the part that is over, 0..1."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return config.learning_rate * warm * float((1 - done) ** 0.9)


def _quick_scores(run: TrainingState, cases: Sequence[Case], plan: dict[str, Any], folder: Path) -> dict[str, float]:
    """Mean automatic Dice of some validation cases on the network's grid, and an overlay of the first."""
    from s2vnet.training.logging import write_sample

    if not cases:
        return {}
    averaged = cast(S2VNet, run.ema.module.eval())
    segmenter = Segmenter([TrainedModel(averaged, plan, {}, "")], device=str(next(averaged.parameters()).device))
    scores = []
    for number, case in enumerate(cases):
        assert case.labels is not None
        scores_map = segmenter.segment_case(case).scores
        predicted = argmax_class(scores_map).cpu().numpy()
        stride = case.labels.shape[1] // predicted.shape[1]
        truth = case.labels[:, stride // 2 :: stride, stride // 2 :: stride]
        scores += [dice(predicted == k, truth == k) for k in segmenter.class_names if k]
        if number == 0:
            write_sample(folder / "sample.png", case, predicted, truth)
    defined = [score for score in scores if not np.isnan(score)]  # a class that nobody shows has none
    return {"dice": float(np.mean(defined))} if defined else {}


def _save(run: TrainingState, path: Path, signature: dict[str, Any]) -> None:
    state = {
        "step": run.step,
        "model": run.model.state_dict(),
        "ema": run.ema.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "history": run.history,
        "spent": list(run.spent),
        "signature": json.dumps(signature, sort_keys=True),
    }
    with atomic_write(path) as temporary, disk_errors(RuntimeError):
        torch.save(state, temporary)


def _resume(run: TrainingState, path: Path, signature: dict[str, Any]) -> None:
    """Go on from a checkpoint, if there is one; `signature` learns from it what the run started from."""
    if not path.is_file():
        return
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        made = json.loads(state["signature"])
        # settings that a later version added have the values by which this one began
        made["train"] = TrainConfig.model_validate({**LEGACY_TRAINING_DEFAULTS, **made["train"]}).model_dump()
        made["model"] = ModelConfig.model_validate({**LEGACY_MODEL_DEFAULTS, **made["model"]}).model_dump()
        made["plan"] = Plan.model_validate(made["plan"]).model_dump(mode="json")
        start = made.setdefault("start", {"init_sha256": ""})
        if not signature["start"]["init_sha256"]:  # it has started already and need not be told again from what
            signature["start"] = start
        wanted = json.loads(json.dumps(signature))
        other = [
            f"{part} {name}" for part in wanted for name in wanted[part] if made[part].get(name) != wanted[part][name]
        ]
        if made != wanted:
            what = f"made with another plan or configuration ({', '.join(other)})"
            raise CheckpointError(f"{path}: {what}; give the settings that the run began with, or take another folder")
        run.model.load_state_dict(state["model"])
        run.ema.load_state_dict(state["ema"])
        run.optimizer.load_state_dict(state["optimizer"])
        run.step, run.history = state["step"], state["history"]
        last = run.history[-1] if run.history else {}  # checkpoints of earlier versions tell the time of epochs only
        spent, cpu = state.get("spent", (last.get("seconds", 0.0), last.get("cpu_seconds", 0.0)))
        run.spent = float(spent), float(cpu)
    except CheckpointError:
        raise
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path}: damaged ({reason}); remove it and start again") from error


class deferred_interrupts:
    """Within it, an interrupt (Ctrl-C, SIGTERM) waits for the end of a step; a second one is immediate."""

    def __enter__(self) -> Callable[[], bool]:
        self._asked = False
        self._before: dict[int, Any] = {}

        def ask(number: int, frame: object) -> None:
            if self._asked:
                raise KeyboardInterrupt
            self._asked = True

        try:
            self._before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: the caller handles interrupts
            self._before = {}
        return lambda: self._asked

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
