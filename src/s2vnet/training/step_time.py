"""Time of a training before it starts: a few steps are measured, and an hour's budget becomes a number of epochs."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from s2vnet.config import ModelConfig, TrainConfig
from s2vnet.data.clips import ClipDataset, collate
from s2vnet.data.plan import Plan
from s2vnet.data.preprocess import Case
from s2vnet.model.checkpoint import choose_device
from s2vnet.model.s2vnet import S2VNet
from s2vnet.training.step import ClipStep

MEASURED_STEPS = 4
"""Steps that are measured, evenly spread over the training, since automatic steps are cheaper than interactive ones."""


def measure_step(
    cases: Sequence[Case], plan: Plan, model_config: ModelConfig, config: TrainConfig, device: str = "auto"
) -> float:
    """Measure the seconds of a training step, with its clips, on a network of its own.

    Args:
        cases: preprocessed, with labels.
        plan: preprocessing of the cases.
        model_config: configuration of the network.
        config: configuration of the training.
        device: auto, cpu, cuda or mps.

    Returns:
        Mean seconds of a step of ``config.batch_size`` clips by one process.
    """
    target = choose_device(device)
    step = ClipStep(S2VNet(model_config), config).to(target)
    total, size = config.epochs * config.steps_per_epoch, config.batch_size
    clips = ClipDataset(cases, plan.patch_size, plan.context_slices, config, total * size)
    numbers = [total * n // MEASURED_STEPS for n in range(MEASURED_STEPS)]
    seconds = []
    for number in (numbers[0], *numbers):  # the first one warms up
        start = time.perf_counter()
        indices = list(range(number * size, (number + 1) * size))
        batch = collate([clips[index] for index in indices])
        loss = step(batch.slices.to(target), batch.labels.to(target), batch.step.to(target), torch.tensor(indices))
        loss.backward()
        step.zero_grad()
        float(loss.detach())  # waits for a GPU
        seconds.append(time.perf_counter() - start)
    return sum(seconds[1:]) / MEASURED_STEPS


def epochs_within(hours: float, step_seconds: float, config: TrainConfig) -> int:
    """Return the number of epochs that take at most `hours`; at least one."""
    return max(1, int(hours * 3600 / (step_seconds * config.steps_per_epoch)))
