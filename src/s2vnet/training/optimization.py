"""Optimizer, learning rate and weight averaging."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from s2vnet.config import TrainConfig

_Tensors = tuple[Tensor, ...] | list[Tensor]


def learning_rate(step: int, done: float, config: TrainConfig) -> float:
    """Learning rate: linear warm-up, then polynomial decay (exponent 0.9 as in nnU-Net).

    Args:
        step: optimizer steps done.
        done: fraction of the training done, 0..1.
        config: settings of the training.
    """
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return config.learning_rate * warmup * float((1 - done) ** 0.9)


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return AdamW with weight decay on matrices and filters only."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    undecayed = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": undecayed, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate)


def make_average(model: nn.Module, config: TrainConfig) -> AveragedModel:
    """Return the exponential moving average of a model's weights."""

    def average(averaged: _Tensors, current: _Tensors, count: Tensor | int) -> None:
        # a smaller decay at first, so that initial weights do not dominate short runs
        decay = min(config.ema_decay, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(averaged, current, 1 - decay)

    return AveragedModel(model, multi_avg_fn=average)
