"""Augmentation of clips with MONAI's transforms; all slices of a clip share the random parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from monai.data.meta_obj import set_track_meta
from monai.transforms.compose import Compose
from monai.transforms.intensity.dictionary import (
    RandAdjustContrastd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandShiftIntensityd,
)
from monai.transforms.spatial.dictionary import Rand2DElasticd, RandAffined
from torch import Tensor

from s2vnet.config import Strength

set_track_meta(False)


def affine_parameters(strength: Strength, shape: Sequence[int]) -> dict[str, Any]:
    """Arguments of MONAI's affine transforms for images and labels of a shape (H, W) or (D, H, W)."""
    strong = strength == "strong"
    return {
        "keys": ["image", "labels"],
        "prob": 0.9 if strong else 0.5,
        "rotate_range": (0.35 if strong else 0.25,) * (1 if len(shape) == 2 else 3),
        "scale_range": ((-0.25, 0.3) if strong else (-0.15, 0.15),) * len(shape),
        "shear_range": 0.15 if strong else 0.1,
        "translate_range": tuple(0.08 * s for s in shape),
        "mode": ("bilinear", "nearest"),
        "padding_mode": ("border", "zeros"),
        "spatial_size": tuple(shape),
    }


def intensity_transforms(strength: Strength, dimensions: int) -> list[Any]:
    """Transforms of blur, contrast, brightness and noise for images of two or three dimensions."""
    strong = strength == "strong"
    blur = {f"sigma_{axis}": (0.3, 1.2 if strong else 0.9) for axis in "xyz"[:dimensions]}
    gamma = (0.6, 1.7) if strong else (0.7, 1.5)
    return [
        RandGaussianSmoothd(["image"], prob=0.2 if strong else 0.15, **blur),
        RandAdjustContrastd(["image"], prob=0.4 if strong else 0.3, gamma=gamma, retain_stats=True),
        RandScaleIntensityd(["image"], factors=0.35 if strong else 0.25, prob=0.5),
        RandShiftIntensityd(["image"], offsets=0.35 if strong else 0.2, prob=0.5),
        RandGaussianNoised(["image"], prob=0.3, std=0.2 if strong else 0.15),
    ]


class Augmentation:
    """Random crop or pad to the patch, rotation, scaling, shear, translation, contrast, noise and blur.

    Strong augmentation, for datasets of few cases, adds elastic deformation. No mirroring: left and right organs are
    different classes.
    """

    def __init__(self, patch_size: tuple[int, int], strength: Strength = "light") -> None:
        self.patch_size = patch_size
        parameters = affine_parameters(strength, patch_size)
        if strength == "strong":
            spatial: Any = Rand2DElasticd(spacing=(30, 30), magnitude_range=(0.5, 3), **parameters)
        else:
            spatial = RandAffined(cache_grid=True, **parameters)
        self.transform = Compose([spatial, *intensity_transforms(strength, 2)])

    def __call__(
        self, image: npt.NDArray[np.float32], labels: npt.NDArray[np.uint8], rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Augment image (T, C, H, W) and labels (T, H, W) to patches of the same slices, random by `rng` only."""
        window = [_window(size, patch, rng) for size, patch in zip(image.shape[-2:], self.patch_size, strict=True)]
        (cut_h, pad_h), (cut_w, pad_w) = window
        pad = (*pad_w, *pad_h)
        flat = torch.from_numpy(image[..., cut_h, cut_w].reshape(-1, *image[0, 0, cut_h, cut_w].shape).copy())
        sample = {
            "image": F.pad(flat, pad, value=float(flat.min())),
            "labels": F.pad(torch.from_numpy(labels[:, cut_h, cut_w].copy()), pad).float(),
        }
        self.transform.set_random_state(seed=int(rng.integers(2**31)))
        out = self.transform(sample)
        return out["image"].unflatten(0, image.shape[:2]).contiguous(), out["labels"].long()


def _window(size: int, patch: int, rng: np.random.Generator) -> tuple[slice, tuple[int, int]]:
    """Random crop, and padding before and after, along one axis so that `size` becomes `patch`."""
    if size >= patch:
        start = int(rng.integers(size - patch + 1))
        return slice(start, start + patch), (0, 0)
    before = int(rng.integers(patch - size + 1))
    return slice(0, size), (before, patch - size - before)
