from __future__ import annotations

import pytest
import torch
from torch import nn

from s2vnet.config import TrainConfig
from s2vnet.training.optimization import learning_rate, make_average, make_optimizer

CONFIG = TrainConfig(learning_rate=0.1, warmup_steps=4, weight_decay=0.01, ema_decay=0.5)


def test_the_learning_rate_rises_linearly_and_falls_polynomially() -> None:
    assert [learning_rate(step, 0, CONFIG) for step in range(5)] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])
    assert learning_rate(100, 0.5, CONFIG) == pytest.approx(0.1 * 0.5**0.9)
    assert learning_rate(100, 1, CONFIG) == 0


def test_only_matrices_and_filters_are_decayed() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.LayerNorm(4))
    decayed, undecayed = make_optimizer(network, CONFIG).param_groups
    assert [p.ndim for p in decayed["params"]] == [4]
    assert [p.ndim for p in undecayed["params"]] == [1, 1, 1]
    assert (decayed["weight_decay"], undecayed["weight_decay"]) == (0.01, 0)


def test_the_average_follows_quickly_at_first() -> None:
    network = nn.Linear(1, 1, bias=False)
    average = make_average(network, CONFIG)
    for step in range(3):
        nn.init.constant_(network.weight, step)
        average.update_parameters(network)
    first = 2 / 11 * 0 + 9 / 11 * 1
    torch.testing.assert_close(average.module.weight.item(), 3 / 12 * first + 9 / 12 * 2)
