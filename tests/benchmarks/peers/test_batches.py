"""Batches of slices and patches."""

from __future__ import annotations

import torch

from benchmarks.ablation import PHANTOM_PLAN
from benchmarks.peers import batches, networks
from s2vnet.config import TrainConfig
from s2vnet.data.preprocess import Case

CONFIG = TrainConfig(batch_size=2, clip_length=2)


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
