"""Other networks: topology, batches, resumed training, and masks on a case's own grid."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.ablation import PHANTOM_PLAN, phantom_case
from benchmarks.peers import batches, clicknet, inference, litemedsam, networks, training
from s2vnet.config import TrainConfig
from s2vnet.data.plan import IntensityScheme
from s2vnet.data.preprocess import Case, preprocess
from s2vnet.io.geometry import Geometry, Volume
from s2vnet.prompts import Point

CPU = torch.device("cpu")
CONFIG = TrainConfig(batch_size=2, clip_length=2, max_correction_rounds=1, interactive_fraction=1)


@pytest.fixture
def cases() -> list[Case]:
    return [phantom_case(5 + n, np.random.default_rng(n), f"case{n}") for n in range(2)]


def test_coarse_axes_are_halved_after_finer_ones() -> None:
    strides, kernels = networks.strides_and_kernels((16, 64, 64), (5.0, 1.0, 1.0), 6)
    assert strides == [[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2]]
    assert kernels == [[1, 3, 3], [1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]]
    assert networks.size_multiple("unet2d", (40, 32), (1.0, 1.0)) == (8, 8)


@pytest.mark.parametrize("name", ["unet2d", "unet3d", "nnunet2d", "nnunet3d", "unetr", "clicknet"])
def test_networks_score_every_class_of_every_voxel(name: str, cases: list[Case]) -> None:
    needed = {
        "nnunet2d": "dynamic_network_architectures",
        "nnunet3d": "dynamic_network_architectures",
        "unetr": "einops",
    }
    if name in needed:
        pytest.importorskip(needed[name])
    patch = networks.patch_size(name, cases, PHANTOM_PLAN, (32, 96, 96))
    spacing = networks.median_spacing(cases, PHANTOM_PLAN)[-len(patch) :]
    network = networks.build_network(name, 1, 3, patch, spacing).eval()
    with torch.no_grad():
        assert inference.finest_output(network(torch.zeros(1, 1, *patch))).shape == (1, 3, *patch)


def test_patches_contain_small_volumes_and_depend_only_on_the_step(cases: list[Case]) -> None:
    patch = networks.patch_size("unet3d", cases, PHANTOM_PLAN, (32, 96, 96))
    assert patch == (8, 32, 32)
    assert networks.patch_size("unet3d", cases, PHANTOM_PLAN, (32, 16, 96)) == (8, 16, 32)
    patches = batches.PatchBatches(cases, patch, CONFIG)
    image, labels = patches(3)
    assert image.shape == labels.shape == (batches.VOLUMES_PER_STEP, 1, *patch)
    patches(4)
    assert torch.equal(patches(3)[0], image)
    slices, truth = batches.SliceBatches(cases, PHANTOM_PLAN, CONFIG)(0)
    assert slices.shape == truth.shape == (4, 1, 32, 32)


class _Bright(nn.Module):
    """Class 1 where the image is bright."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([torch.full_like(image[:, :1], 0.5), image[:, :1]], 1) * 100


def test_sliding_windows_and_slices_keep_the_grid_of_the_case(cases: list[Case]) -> None:
    case = cases[0]
    wanted = torch.from_numpy(case.image[0] > 0.5)
    scores = inference.segment_volume(_Bright(), torch.from_numpy(case.image), (4, 16, 16), CPU)
    assert torch.equal(scores.argmax(1).bool(), wanted)
    scores = inference.segment_slices(_Bright(), case, PHANTOM_PLAN, (64, 64), CPU)
    assert torch.equal(scores.argmax(1).bool(), wanted)


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


def test_click_training_learns_from_prompted_batches(cases: list[Case]) -> None:
    patches = batches.PatchBatches(cases, (8, 32, 32), CONFIG)
    network = networks.build_network("clicknet", clicknet.input_channels(1, 3), 3, (8, 32, 32), (1.0, 1.0, 1.0))
    seen: list[float] = []
    network.register_forward_pre_hook(lambda module, given: seen.append(float(given[0][:, 1:4].sum())))
    clicknet.ClickObjective(patches, 3, CONFIG, CPU)(network, 0).backward()
    assert seen[0] == 0 < seen[1]  # first without clicks, then with corrections
    assert all(p.grad is not None for p in network.parameters())
    never = CONFIG.model_copy(update={"interactive_fraction": 0.0})
    clicknet.ClickObjective(patches, 3, never, CPU)(network, 0)
    assert seen[2:] == [0]


def test_litemedsam_uses_its_own_ct_window_on_the_pixels_of_the_file() -> None:
    data = np.linspace(-1000, 1000, 6 * 5 * 4, dtype=np.float32).reshape(1, 6, 5, 4)
    volume = Volume(data, Geometry((6, 5, 4), np.diag([0.5, 0.7, 3, 1])))
    ct = IntensityScheme(kind="ct", low=-50, high=100, mean=30, std=40)
    plan = litemedsam.native_plan(PHANTOM_PLAN.model_copy(update={"intensities": (ct,)}), volume.geometry)
    image = preprocess(volume, plan).image[0, :, :6, :5]
    np.testing.assert_allclose(image, np.moveaxis(data[0], 2, 0).clip(-160, 240), atol=1e-3)
    assert litemedsam.native_plan(PHANTOM_PLAN, volume.geometry).intensities == PHANTOM_PLAN.intensities  # no CT


@pytest.mark.skipif(importlib.util.find_spec(litemedsam.PACKAGE) is None, reason="its weights are not installed")
def test_litemedsam_segments_true_boxes(cases: list[Case]) -> None:
    scores = litemedsam.segment(litemedsam.load(CPU), cases[0], 3, CPU)
    predicted = scores.argmax(1).numpy()
    assert (predicted == cases[0].labels).mean() > 0.9
    assert set(np.unique(predicted)) == {0, 1, 2}
    assert "timm" not in sys.modules  # the substitute is removed
