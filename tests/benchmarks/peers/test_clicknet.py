"""Clicks as input channels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.ablation import PHANTOM_PLAN
from benchmarks.peers import batches, clicknet, networks
from s2vnet.config import TrainConfig
from s2vnet.data.preprocess import Case
from s2vnet.prompts import Point

CPU = torch.device("cpu")
CONFIG = TrainConfig(batch_size=2, clip_length=2)


def test_click_is_a_gaussian_in_the_channel_of_its_class() -> None:
    maps = torch.zeros(2, 3, 20, 20)
    clicknet.draw_click(maps, 1, (0, 10, 19))
    assert maps[1, 0, 10, 19] == 1
    assert maps[1, 0, 10, 17] == pytest.approx(np.exp(-0.5))
    assert maps[1, 2, 10, 19] == pytest.approx(np.exp(-0.5))
    assert not maps[0].any()
    clicknet.draw_click(maps, 0, (0, 60, 0))  # beyond the crop
    assert not maps[0].any()


class _ClickedClass(nn.Module):
    """Class of a click, else of the previous mask, else background; input: image, clicks, previous mask."""

    def forward(self, channels: Tensor) -> Tensor:
        _, clicks, previous = channels.split([1, 3, 3], 1)
        background = torch.tensor([0.1, 0, 0])[:, None, None, None]
        return 100 * (clicks + 0.5 * previous + background)


def test_clicks_persist_at_their_voxels(cases: list[Case]) -> None:
    session = clicknet.ClickSession(_ClickedClass(), cases[0], PHANTOM_PLAN, (8, 32, 32), CPU)
    assert not session.labels.any()
    session.add_round([Point(class_id=1, voxel=(4, 9, 2)), Point(class_id=2, voxel=(20, 5, 0))])
    assert (session.labels[4, 9, 2], session.labels[20, 5, 0]) == (1, 2)
    session.add_round([Point(class_id=0, voxel=(25, 5, 4))])
    assert (session.labels[4, 9, 2], session.labels[20, 5, 0]) == (1, 2)


def test_small_case_is_padded_as_in_training(cases: list[Case]) -> None:
    patch, (depth, height, width) = (16, 48, 48), cases[0].image.shape[1:]
    session = clicknet.ClickSession(_ClickedClass(), cases[0], PHANTOM_PLAN, patch, CPU)
    seen: list[Tensor] = []
    session.network.register_forward_pre_hook(lambda module, given: seen.append(given[0][0]))
    session.add_round([Point(class_id=1, voxel=(4, 9, 2))])
    (given,) = seen
    assert given.shape[1:] == patch
    beyond = torch.ones(patch, dtype=torch.bool)
    beyond[:depth, :height, :width] = False
    assert (given[0, beyond] == cases[0].image.min()).all()
    clicks = torch.zeros(3, *patch)
    clicknet.draw_click(clicks, 1, [round(c) for c in cases[0].grid.voxels_to_pixels([(4, 9, 2)])[0]])
    assert torch.equal(given[1:4], clicks)
    assert (given[4:, beyond] == torch.tensor([1, 0, 0])[:, None]).all()  # background, as in the first prediction
    assert session.segmentation.scores.shape == (depth, 3, height, width)


def test_click_training_learns_from_prompted_batches(cases: list[Case], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clicknet, "CLICKED_FRACTION", 1.0)
    monkeypatch.setattr(clicknet, "MAX_ROUNDS", 1)
    patches = batches.PatchBatches(cases, (8, 32, 32), CONFIG)
    network = networks.build_network("clicknet", clicknet.input_channels(1, 3), 3, (8, 32, 32), (1.0, 1.0, 1.0))
    seen: list[float] = []
    network.register_forward_pre_hook(lambda module, given: seen.append(float(given[0][:, 1:4].sum())))
    clicknet.ClickObjective(patches, 3, CONFIG, CPU)(network, 0).backward()
    assert seen[0] == 0 < seen[1]  # first without clicks, then with corrections
    assert all(p.grad is not None for p in network.parameters())
    monkeypatch.setattr(clicknet, "CLICKED_FRACTION", 0.0)
    clicknet.ClickObjective(patches, 3, CONFIG, CPU)(network, 0)
    assert seen[2:] == [0]
