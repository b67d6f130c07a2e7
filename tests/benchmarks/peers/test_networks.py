"""Topology of the networks."""

from __future__ import annotations

import pytest
import torch

from benchmarks.ablation import PHANTOM_PLAN
from benchmarks.peers import inference, networks
from s2vnet.data.preprocess import Case


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
