"""Training of other networks with the optimiser, schedule and weight average of s2vnet."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from monai.losses.dice import DiceCELoss
from torch import Tensor, nn

from benchmarks.peers.batches import Batches
from s2vnet.config import TrainConfig
from s2vnet.training.interrupts import deferred_interrupts
from s2vnet.training.optimization import learning_rate, make_average, make_optimizer
from s2vnet.utils.atomic_write import atomic_write, disk_errors
from s2vnet.utils.memory import keep_freed_memory

HISTORY_STEPS = 10
"""Steps per row of a training's history."""

Objective = Callable[[nn.Module, int], Tensor]
"""Loss of a network at a step. Its randomness depends only on the step, so that a resumed training repeats it."""


def deep_supervision_loss(outputs: Tensor | Sequence[Tensor], labels: Tensor) -> Tensor:
    """Dice and cross-entropy of logits; each coarser output has half the weight of the one before, as in nnU-Net.

    Args:
        outputs: (N, K, ...) logits, or several of decreasing resolution.
        labels: (N, 1, ...).
    """
    loss = DiceCELoss(include_background=False, softmax=True, to_onehot_y=True, smooth_nr=1.0, smooth_dr=1.0)
    scales = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    weights = [0.5**n for n in range(len(scales))]
    total = sum(
        w * loss(o, F.interpolate(labels.float(), size=o.shape[2:], mode="nearest-exact").long())
        for w, o in zip(weights, scales, strict=True)
    )
    return cast(Tensor, total / sum(weights))


def supervised_objective(batches: Batches, device: torch.device) -> Objective:
    """Objective of networks without prompts."""

    def objective(network: nn.Module, step: int) -> Tensor:
        image, labels = batches(step)
        return deep_supervision_loss(network(image.to(device)), labels.to(device))

    return objective


def train_network(
    network: nn.Module, objective: Objective, budget: float, config: TrainConfig, checkpoint: Path, device: torch.device
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Train for ``budget`` seconds (CPU time on a CPU, else wall-clock time); resume from ``checkpoint`` if it exists.

    Returns:
        The averaged network, and a history with step, loss and seconds.

    Raises:
        KeyboardInterrupt: on an interrupt, after the checkpoint has been written.
    """
    keep_freed_memory()
    network.to(device).train()
    optimizer, average = make_optimizer(network, config), make_average(network, config)
    modules: dict[str, Any] = {"network": network, "optimizer": optimizer, "average": average}
    state: dict[str, Any] = {"step": 0, "seconds": 0.0, "history": []}
    if checkpoint.exists():
        stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
        for name, module in modules.items():
            module.load_state_dict(stored[name])
        state = {name: stored[name] for name in state}
    step, history = state["step"], state["history"]
    clock = time.process_time if device.type == "cpu" else time.monotonic
    start, saved = clock() - state["seconds"], time.monotonic()
    losses: list[float] = []
    with deferred_interrupts() as interrupted:
        while (seconds := clock() - start) < budget:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, seconds / budget, config)
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16-mixed"):
                loss = objective(network, step)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), config.gradient_clip)
            optimizer.step()
            average.update_parameters(network)
            step += 1
            losses.append(float(loss.detach()))
            if step % HISTORY_STEPS == 0:
                history.append({"step": step, "loss": float(np.mean(losses)), "seconds": clock() - start})
                losses = []
            due = time.monotonic() - saved > 60 * config.checkpoint_minutes
            if due or interrupted():
                state = {"step": step, "seconds": clock() - start, "history": history}
                state |= {name: module.state_dict() for name, module in modules.items()}
                with atomic_write(checkpoint) as temporary, disk_errors(RuntimeError):
                    torch.save(state, temporary)
                saved = time.monotonic()
            if interrupted():
                raise KeyboardInterrupt
    history.append({"step": step, "loss": float(np.mean(losses or [np.nan])), "seconds": clock() - start})
    return average.module, history
