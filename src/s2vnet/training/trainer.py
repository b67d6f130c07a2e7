"""Training of a network: setup, training loop, final model. Devices and precision are handled by Fabric.

Clips and the learning rate are functions of the step, so a resumed run equals an uninterrupted one
exactly (on the CPU of one machine), and several processes train on the same clips as one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
NUM_VALIDATIONS = 5
"""How often the validation cases are scored in the course of a training."""

Report = Callable[[str, int, int], None]
"""Progress callback: task, number of items done, total."""
EpochDone = Callable[[dict[str, float]], None]
"""Callback with ``step``, ``loss``, ``learning_rate``, ``seconds`` and, after some epochs, ``dice``."""


@dataclass(frozen=True)
class Hardware:
    """What a training runs on."""

    device: str = "auto"
    """auto, cpu, cuda or mps."""
    devices: int = 1
    """Processes on this machine; more than one for data-parallel training (DDP)."""
    nodes: int = 1
    """Machines, each of which runs the training, with ``MASTER_ADDR``, ``MASTER_PORT``, ``NODE_RANK`` and
    ``LOCAL_RANK`` set as torchrun and SLURM set them."""
    workers: int | None = None
    """Worker processes that load clips, per process. By default one per spare core beside a GPU, and none on a CPU. The
    result does not depend on it."""

    @property
    def processes(self) -> int:
        """Processes on all machines."""
        return self.devices * self.nodes


class Trainer:
    """Trains one network.

    Args:
        cases: preprocessed, with labels.
        plan: preprocessing of the cases.
        model_config: configuration of the network.
        config: configuration of the training.
        hardware: devices and processes.
        init: trained network to start from; not needed to resume.
        data: record of the cases, written to ``cases.json``; a checkpoint with another record is refused.

    Raises:
        InputError: no labelled cases, a network that does not fit the plan, or a batch size that is not a multiple of
            the number of processes.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        plan: Plan,
        model_config: ModelConfig,
        config: TrainConfig,
        hardware: Hardware | None = None,
        *,
        init: TrainedModel | None = None,
        data: RunData | None = None,
    ) -> None:
        self.cases, self.plan, self.model_config, self.config = cases, plan, model_config, config
        self.hardware, self.init, self.data = hardware or Hardware(), init, data
        self.total_steps = config.epochs * config.steps_per_epoch
        self._check()

    def run(
        self,
        folder: Path,
        validation: Sequence[Case] = (),
        *,
        resume: bool = False,
        info: dict[str, Any] | None = None,
        report: Report = lambda what, done, total: None,
        epoch_done: EpochDone = lambda row: None,
    ) -> TrainedModel:
        """Train the network and write it to a folder.

        Args:
            folder: existing output folder for ``plan.json``, ``model.*``, ``checkpoint.pt``, ``history.json``, curves,
                overlays and TensorBoard files.
            validation: cases to score during training.
            resume: continue from ``checkpoint.pt`` if there is one.
            info: data and command, recorded in ``model.json``.
            report: progress callback.
            epoch_done: called with the row of ``history.json`` of each epoch, on the first process.

        Raises:
            InputError: `init` does not fit the network.
            CheckpointError: the device is not available, or the checkpoint is damaged or of another configuration.
            KeyboardInterrupt: training was interrupted; its checkpoint has been written, continue with `resume`.
        """
        keep_freed_memory()
        fabric = self._start_processes()
        signature = self._signature()
        state, step = self._build(fabric)
        if resume:
            load_checkpoint(state, folder / CHECKPOINT, signature)
        if fabric.is_global_zero:
            self._write_inputs(folder)
        _Loop(self, fabric, state, step, folder, signature, validation, report, epoch_done).run(self._workers(fabric))
        trained = self._finish(fabric, state, folder, signature, info or {})
        fabric.barrier()
        return trained

    def _check(self) -> None:
        if self.config.batch_size % self.hardware.processes:
            raise InputError(
                f"a batch of {self.config.batch_size} clips cannot be shared by {self.hardware.processes} processes"
            )
        for name, required in self.plan.network.items():
            value = getattr(self.model_config, name)
            if value != required:
                raise InputError(f"setting {name}: {value}, but the plan needs {required}; edit the plan instead")
        if not any(case.labels is not None for case in self.cases):
            raise InputError("no labelled cases to train on; check the dataset and the fold")

    def _start_processes(self) -> Fabric:
        parallel = self.hardware.processes > 1
        fabric = Fabric(
            accelerator=choose_device(self.hardware.device).type,
            devices=self.hardware.devices,
            num_nodes=self.hardware.nodes,
            strategy=self._strategy() if parallel else "auto",
            precision=self.config.precision,
        )
        if parallel:
            fabric.launch()
        return fabric

    def _strategy(self) -> str:
        """DDP strategy; the aggregation gate has no gradient where no aggregated centre reaches a loss."""
        gated = self.model_config.propagation == "aggregated" and self.config.clip_length > 1
        return "ddp" if gated else "ddp_find_unused_parameters_true"

    def _workers(self, fabric: Fabric) -> int:
        if self.hardware.workers is not None:
            return self.hardware.workers
        return max(0, available_cores() // self.hardware.devices - 1) if fabric.device.type == "cuda" else 0

    def _signature(self) -> dict[str, Any]:
        """Settings that a resumed run must have."""
        return {
            "plan": self.plan.model_dump(mode="json"),
            "model": self.model_config.model_dump(),
            "train": self.config.model_dump(),
            "start": {"init_sha256": "" if self.init is None else self.init.sha256},
            "data": {"sha256": "" if self.data is None else self.data.digest()},
        }

    def _build(self, fabric: Fabric) -> tuple[TrainingState, Any]:
        """Build the training state, and the step module as wrapped by Fabric."""
        torch.manual_seed(self.config.seed)
        model = S2VNet(self.model_config)
        if self.init is not None:
            load_initial_weights(model, self.init, self.plan.labels)
        elif self.config.pretrained:
            load_imagenet_encoder(model)
        clip_step = ClipStep(model, self.config, self._class_weights())
        step, optimizer = fabric.setup(clip_step, make_optimizer(model, self.config))
        return TrainingState(0, model, make_average(model, self.config), optimizer), step

    def _class_weights(self) -> Tensor | None:
        if not self.config.rarity_exponent:
            return None
        classes = self.plan.num_classes
        counts = [
            np.bincount(case.labels.ravel(), minlength=classes)[:classes]  # without ignored pixels
            for case in self.cases
            if case.labels is not None
        ]
        return class_weights(np.sum(counts, 0).tolist(), self.config.rarity_exponent)

    def _write_inputs(self, folder: Path) -> None:
        """Write plan and cases, after all checks: a refused call leaves an earlier run as it was."""
        save_json(self.plan, folder / PLAN)
        if self.data is not None:
            save_json(self.data, folder / CASES)

    def _finish(
        self, fabric: Fabric, state: TrainingState, folder: Path, signature: dict[str, Any], info: dict[str, Any]
    ) -> TrainedModel:
        """Write the averaged weights as a model."""
        trained = S2VNet(self.model_config).eval()
        trained.load_state_dict(state.ema.module.state_dict())
        if fabric.is_global_zero:
            start = signature["start"] if signature["start"]["init_sha256"] else {}
            details = {**info, **start, "steps": state.step, "train": self.config.model_dump()}
            details["torch"] = str(torch.__version__)
            save_model(folder, trained, signature["plan"], details)
        return TrainedModel(trained, signature["plan"], info, "")


class _Loop:
    """The steps of one run, from its state to the last step; `step` is the module that Fabric has wrapped."""

    def __init__(
        self,
        trainer: Trainer,
        fabric: Fabric,
        state: TrainingState,
        step: Any,
        folder: Path,
        signature: dict[str, Any],
        validation: Sequence[Case],
        report: Report,
        epoch_done: EpochDone,
    ) -> None:
        from s2vnet.training.logging import TrainingLogger

        self.trainer, self.config, self.fabric = trainer, trainer.config, fabric
        self.state, self.step, self.folder, self.signature = state, step, folder, signature
        self.validation, self.report, self.epoch_done = validation[:QUICK_CASES], report, epoch_done
        self.logger = TrainingLogger(folder, state.history) if fabric.is_global_zero else None
        self.losses: list[Tensor] = []
        """Of the steps of the current epoch."""
        self.saved = time.monotonic()
        """When the last checkpoint was written."""
        self.started = time.monotonic() - state.spent[0], time.process_time() - state.spent[1]
        """Wall-clock and CPU time at which an uninterrupted run would have started."""

    def run(self, workers: int) -> None:
        """Take the remaining steps.

        Raises:
            KeyboardInterrupt: the run was interrupted, after its checkpoint was written.
        """
        total = self.trainer.total_steps
        batches, loader = self._clip_loader(range(self.state.step, total), workers)
        with deferred_interrupts() as interrupted:
            for indices, clip in zip(batches, loader, strict=True):
                rate = learning_rate(self.state.step, self.state.step / total, self.config)
                self.losses.append(self._take_step(indices, self.fabric.to_device(clip), rate))
                self.report("training", self.state.step, total)
                if self.state.step % self.config.steps_per_epoch == 0:
                    self._end_epoch(rate)
                stop = bool(self.fabric.broadcast(interrupted()))
                if stop or self.state.step == total or self._checkpoint_is_due():
                    self._save_checkpoint()
                if stop:
                    self.fabric.barrier()  # wait for the checkpoint: the first process to exit ends all others
                    raise KeyboardInterrupt

    def _take_step(self, indices: list[int], clips: Clip, rate: float) -> Tensor:
        """Take one optimizer step on a batch of clips; return the loss."""
        state = self.state
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        loss: Tensor = self.step(clips.slices, clips.labels, clips.step, torch.tensor(indices))
        state.optimizer.zero_grad()
        self.fabric.backward(loss)
        self.fabric.clip_gradients(self.step, state.optimizer, max_norm=self.config.gradient_clip)
        state.optimizer.step()
        state.ema.update_parameters(state.model)
        state.step += 1
        return loss.detach()

    def _end_epoch(self, rate: float) -> None:
        """Log the epoch, with the Dice on validation cases after every fifth of the training."""
        mean = float(self.fabric.all_reduce(torch.stack(self.losses).mean()))  # type: ignore[arg-type]
        self.losses = []
        if self.logger is None:
            return
        row = {"step": self.state.step, "loss": mean, "learning_rate": rate, **_cost(self.started)}
        epoch = self.state.step // self.config.steps_per_epoch
        if epoch % max(1, self.config.epochs // NUM_VALIDATIONS) == 0:
            row |= quick_scores(self.state.ema, self.validation, self.signature["plan"], self.folder)
        self.state.history.append(row)
        self.logger.write(self.state.history)
        self.epoch_done(row)

    def _checkpoint_is_due(self) -> bool:
        return time.monotonic() - self.saved > 60 * self.config.checkpoint_minutes

    def _save_checkpoint(self) -> None:
        if self.logger is None:  # not the first process
            return
        self.state.spent = time.monotonic() - self.started[0], time.process_time() - self.started[1]
        save_checkpoint(self.state, self.folder / CHECKPOINT, self.signature)
        self.saved = time.monotonic()

    def _clip_loader(self, steps: range, workers: int) -> tuple[list[list[int]], DataLoader[Clip]]:
        """Clip numbers of this process per step, and the loader of their batches."""
        size, share = self.config.batch_size, self.config.batch_size // self.fabric.world_size
        first = self.fabric.global_rank * share
        batches = [list(range(s * size + first, s * size + first + share)) for s in steps]
        plan = self.trainer.plan
        loader = DataLoader(
            ClipDataset(self.trainer.cases, plan.patch_size, plan.context_slices, self.config, steps.stop * size),
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            pin_memory=self.fabric.device.type == "cuda",
            worker_init_fn=ignore_interrupts,
        )
        return batches, loader


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


def _cost(started: tuple[float, float]) -> dict[str, float]:
    """Seconds and CPU seconds since `started`, and the peak memory of this process in MiB where it is known."""
    cost = {"seconds": time.monotonic() - started[0], "cpu_seconds": time.process_time() - started[1]}
    peak = peak_memory_mb()
    return cost if peak is None else {**cost, "peak_mb": peak}
