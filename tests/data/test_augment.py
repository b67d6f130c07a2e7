"""Augmentation: image and labels move as one, sizes are kept, and the generator decides everything."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from s2vnet.config import Strength
from s2vnet.data.augment import Augmentation

Image = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]


def two_blobs(size: tuple[int, int] = (32, 32), slices: int = 2) -> tuple[Image, Labels]:
    """Image (T, 1, H, W), ten times its labels (T, H, W): class 3 left of the middle, 7 right of it."""
    labels = np.zeros((slices, *size), np.uint8)
    h, w = size
    labels[:, h // 4 : 3 * h // 4, w // 4 : w // 2] = 3
    labels[:, h // 4 : 3 * h // 4, w // 2 : 3 * w // 4] = 7
    return 10 * labels[:, None].astype(np.float32), labels


@pytest.mark.parametrize("strength", ["light", "strong"])
def test_the_generator_decides_everything(strength: Strength) -> None:
    image, labels = two_blobs()
    augment = Augmentation((24, 24), strength)
    first = augment(image, labels, np.random.default_rng(3))
    other = augment(image, labels, np.random.default_rng(4))
    torch.manual_seed(1)
    again = augment(image, labels, np.random.default_rng(3))
    fresh = Augmentation((24, 24), strength)(image, labels, np.random.default_rng(3))
    for a, b, c in zip(first, again, fresh, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("size", [(16, 24), (9, 40), (1, 1), (50, 60), (16, 60)])
def test_patches_have_one_size(size: tuple[int, int]) -> None:
    image, labels = two_blobs(size, slices=3)
    both = np.concatenate([image, -image], 1)
    augment = Augmentation((16, 24))
    for seed in range(6):
        patch, found = augment(both, labels, np.random.default_rng(seed))
        assert patch.shape == (3, 2, 16, 24)
        assert patch.dtype == torch.float32
        assert patch.is_contiguous()
        assert torch.isfinite(patch).all()
        assert found.shape == (3, 16, 24)
        assert found.dtype == torch.int64
        assert set(found.unique().tolist()) <= {0, 3, 7}, "labels are never blended"


def test_input_stays_as_it_was() -> None:
    image, labels = two_blobs()
    before = image.copy(), labels.copy()
    Augmentation((24, 40))(image, labels, np.random.default_rng(0))
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(labels, before[1])


@pytest.mark.parametrize("strength", ["light", "strong"])
def test_image_and_labels_move_together(strength: Strength) -> None:
    image, labels = two_blobs()
    blob = (labels > 0).astype(np.uint8)
    augment = Augmentation((32, 32), strength)
    moved = 0
    for seed in range(30):
        patch, found = augment(10 * blob[:, None].astype(np.float32), blob, np.random.default_rng(seed))
        bright = patch[:, 0] > (patch.quantile(0.02) + patch.quantile(0.98)) / 2
        dice = 2 * (bright & (found == 1)).sum() / (bright.sum() + found.sum())
        assert dice > 0.9
        assert torch.equal(found[0], found[1]), "all slices of a clip move alike"
        moved += not torch.equal(found[0], torch.from_numpy(blob[0]).long())
    assert moved > 8
    assert image.shape == (2, 1, 32, 32)


@pytest.mark.parametrize("strength", ["light", "strong"])
def test_left_stays_left(strength: Strength) -> None:
    image, labels = two_blobs()
    augment = Augmentation((32, 32), strength)
    for seed in range(30):
        _, found = augment(image, labels, np.random.default_rng(seed))
        left, right = ((found == c).nonzero()[:, 2].float().mean() for c in (3, 7))
        assert left < right


def test_crops_reach_every_part_of_a_large_slice() -> None:
    labels = np.arange(64, dtype=np.uint8).reshape(1, 8, 8).repeat(4, 1).repeat(4, 2)
    image = labels[:, None].astype(np.float32)
    augment = Augmentation((8, 8))
    seen = {int(v) for s in range(250) for v in augment(image, labels, np.random.default_rng(s))[1].unique()}
    assert seen == set(range(64))
