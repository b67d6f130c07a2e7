"""Training batches of other networks from the same cases, with the same kinds of augmentation.

2D networks train on the clips of s2vnet, flattened into slices; 3D networks on patches, or whole volumes that fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from monai.transforms.compose import Compose
from monai.transforms.spatial.dictionary import RandAffined
from torch import Tensor

from benchmarks.peers.networks import Patch
from s2vnet.config import Strength, TrainConfig
from s2vnet.data.augment import affine_parameters, intensity_transforms
from s2vnet.data.clips import ClipDataset
from s2vnet.data.plan import Plan
from s2vnet.data.preprocess import Case

VOLUMES_PER_STEP = 2

Batch = tuple[Tensor, Tensor]
"""Image (N, C, ...) and labels (N, 1, ...)."""
Batches = Callable[[int], Batch]
"""Batch of a training step."""


class SliceBatches:
    """Slices (N, C, H, W) with labels (N, 1, H, W) of the clips that s2vnet trains on."""

    def __init__(self, cases: Sequence[Case], plan: Plan, config: TrainConfig) -> None:
        self.batch_size = config.batch_size
        self.clips = ClipDataset(cases, plan.patch_size, plan.context_slices, config, 10**9)

    def __call__(self, step: int) -> Batch:
        """Batch of a step."""
        clips = [self.clips[step * self.batch_size + n] for n in range(self.batch_size)]
        return torch.cat([c.slices for c in clips]), torch.cat([c.labels for c in clips])[:, None]


class PatchBatches:
    """Patches (N, C, D, H, W) with labels (N, 1, D, H, W); classes are balanced as in s2vnet's clips."""

    def __init__(self, cases: Sequence[Case], patch: Patch, config: TrainConfig) -> None:
        self.cases = [(case, case.labels) for case in cases if case.labels is not None]
        self.patch, self.config = patch, config
        classes = [set(np.unique(labels).tolist()) - {0} for _, labels in self.cases]
        self.cases_with = {k: [n for n, c in enumerate(classes) if k in c] for k in sorted(set[int]().union(*classes))}
        self.transform = volume_augmentation(patch, config.augmentation)

    def __call__(self, step: int) -> Batch:
        """Batch of a step."""
        rng = np.random.default_rng((self.config.seed, step))
        samples = [self._sample(rng) for _ in range(VOLUMES_PER_STEP)]
        return torch.stack([s["image"] for s in samples]), torch.stack([s["labels"] for s in samples]).long()

    def _sample(self, rng: np.random.Generator) -> dict[str, Tensor]:
        case, all_labels, centre = self._draw(rng)
        window = []
        for middle, size, patch in zip(centre, all_labels.shape, self.patch, strict=True):
            start = int(np.clip(middle - int(rng.integers(patch)), 0, max(0, size - patch)))
            window.append(slice(start, start + patch))
        image = torch.from_numpy(case.image[(slice(None), *window)].copy())
        labels = torch.from_numpy(all_labels[tuple(window)].copy())[None].float()
        self.transform.set_random_state(seed=int(rng.integers(2**31)))
        sample = {"image": pad_to(image, self.patch), "labels": pad_to(labels, self.patch)}
        return cast(dict[str, Tensor], self.transform(sample))

    def _draw(self, rng: np.random.Generator) -> tuple[Case, npt.NDArray[np.uint8], list[int]]:
        """Draw a case and a voxel (d, y, x): of a random class, or with `anywhere_fraction` any voxel."""
        if rng.random() < self.config.anywhere_fraction or not self.cases_with:
            case, labels = self.cases[int(rng.integers(len(self.cases)))]
            return case, labels, [int(rng.integers(n)) for n in case.image.shape[1:]]
        class_id = list(self.cases_with)[int(rng.integers(len(self.cases_with)))]
        candidates = self.cases_with[class_id]
        case, labels = self.cases[candidates[int(rng.integers(len(candidates)))]]
        voxels = np.flatnonzero(labels == class_id)
        voxel = np.unravel_index(voxels[int(rng.integers(len(voxels)))], labels.shape)
        return case, labels, [int(n) for n in voxel]


def volume_augmentation(shape: Sequence[int], strength: Strength = "light") -> Compose:
    """Augmentation of s2vnet (:mod:`s2vnet.data.augment`) for volumes (D, H, W), without elastic deformation.

    The elastic deformation is two-dimensional; nnU-Net trains without one, too.
    """
    return Compose(
        [RandAffined(cache_grid=True, **affine_parameters(strength, shape)), *intensity_transforms(strength, 3)]
    )


def pad_to(image: Tensor, shape: Sequence[int]) -> Tensor:
    """Pad an image (C, ...) at the end of each axis to at least ``shape`` with its minimum."""
    missing = [p for n, m in zip(reversed(image.shape[1:]), reversed(shape), strict=True) for p in (0, max(0, m - n))]
    return F.pad(image, missing, value=float(image.min()))
