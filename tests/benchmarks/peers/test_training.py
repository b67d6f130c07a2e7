"""Resumed training, and the loss with deep supervision."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks.peers import batches, networks, training
from s2vnet.config import TrainConfig
from s2vnet.data.preprocess import Case

CPU = torch.device("cpu")
CONFIG = TrainConfig(batch_size=2, clip_length=2)


def test_interrupted_training_resumes_with_the_rest_of_its_budget(cases: list[Case], tmp_path: Path) -> None:
    patch = (8, 32, 32)
    supervised = training.supervised_objective(batches.PatchBatches(cases, patch, CONFIG), CPU)
    steps: list[int] = []

    def objective(network: nn.Module, step: int) -> Tensor:
        steps.append(step)
        if step == 1 and len(steps) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return supervised(network, step)

    checkpoint = tmp_path / "checkpoint.pt"
    network = networks.build_network("unet3d", 1, 3, patch, (1.0, 1.0, 1.0))
    with pytest.raises(KeyboardInterrupt):
        training.train_network(network, objective, 60, CONFIG, checkpoint, CPU)
    spent = torch.load(checkpoint, weights_only=True)["seconds"]
    other = networks.build_network("unet3d", 1, 3, patch, (1.0, 1.0, 1.0))
    averaged, history = training.train_network(other, objective, spent + 0.2, CONFIG, checkpoint, CPU)
    assert steps == list(range(len(steps)))  # every step once
    assert history[-1]["step"] == len(steps) > 2
    assert history[-1]["seconds"] >= spent + 0.2
    assert sum(p.numel() for p in averaged.parameters()) == sum(p.numel() for p in network.parameters())


def test_deep_supervision_weights_coarser_outputs_less() -> None:
    labels = torch.randint(0, 2, (1, 1, 8, 8))
    fine, coarse = torch.randn(1, 2, 8, 8), torch.randn(1, 2, 4, 4)
    small = labels[..., 1::2, 1::2]
    wanted = (training.deep_supervision_loss(fine, labels) + 0.5 * training.deep_supervision_loss(coarse, small)) / 1.5
    assert training.deep_supervision_loss([fine, coarse], labels) == pytest.approx(float(wanted))
