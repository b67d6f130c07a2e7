"""Training clips: consecutive slices of a case, sampled as a function of the clip's index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from s2vnet.config import TrainConfig
from s2vnet.data.augment import Augmentation
from s2vnet.data.label_definitions import IGNORED
from s2vnet.data.preprocess import Case, with_neighbours

MAX_INTENSITY_SHIFT = 1.2
"""Largest shift of a class's intensity in standard deviations of the normalised image, in CT about 70 HU."""


class Clip(NamedTuple):
    """A clip or, with a leading axis B, a batch of clips."""

    slices: Tensor
    """(T, C', H, W) slices with their neighbours as channels."""
    labels: Tensor
    """(T, H, W) class per pixel."""
    step: Tensor
    """() signed slice step: +2 means every second slice in ascending order, 0 that the slices are independent."""


class ClipDataset(Dataset[Clip]):
    """Clips of consecutive slices, balanced over classes.

    Item `i` depends on (seed, i) only, so that resumed and distributed runs use the same clips.
    """

    def __init__(
        self, cases: Sequence[Case], patch_size: tuple[int, int], context: int, config: TrainConfig, length: int
    ) -> None:
        """Create the dataset.

        Args:
            cases: preprocessed cases; those without labels are ignored.
            patch_size: in-plane size (H, W) of a clip.
            context: neighbouring slices on either side.
            config: sampling of clips and augmentation.
            length: number of clips.
        """
        self.cases = [case for case in cases if case.labels is not None]
        self.patch_size, self.context, self.config, self.length = patch_size, context, config, length
        self.augment = Augmentation(patch_size, config.augmentation)
        self.extents = [_extents(case.labels) for case in self.cases]
        classes = sorted({c for extent in self.extents for c in extent})
        self.cases_by_class = {c: [n for n, extent in enumerate(self.extents) if c in extent] for c in classes}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Clip:
        rng = np.random.default_rng((self.config.seed, index))
        if self._is_independent(index):
            drawn = [self._draw(rng, 1) for _ in range(self.config.clip_length)]
            return Clip(torch.cat([c.slices for c in drawn]), torch.cat([c.labels for c in drawn]), torch.tensor(0))
        return self._draw(rng, self.config.clip_length)

    def _is_independent(self, index: int) -> bool:
        """Whether a clip consists of independent slices; equal for all clips of an optimiser step."""
        step = index // self.config.batch_size
        return float(np.random.default_rng((self.config.seed, step, 3)).random()) < self.config.slice_fraction

    def _draw(self, rng: np.random.Generator, length: int) -> Clip:
        """Draw a clip of consecutive slices."""
        number, slices, step = self._sample(rng, length)
        case = self.cases[number]
        assert case.labels is not None
        image = with_neighbours(case.image, slices, self.context)
        if self.config.shift_fraction and rng.random() < self.config.shift_fraction:
            image = image + class_intensity_shifts(case, slices, self.context, rng)
        patch, labels = self.augment(image, case.labels[slices], rng)
        return Clip(patch, labels, torch.tensor(step))

    def _sample(self, rng: np.random.Generator, length: int) -> tuple[int, npt.NDArray[np.intp], int]:
        """Sample a case, the slices of a clip (the last one repeated where there are too few), and their step."""
        config = self.config
        kind = rng.random()
        if kind < config.anywhere_fraction or not self.cases_by_class:
            number = int(rng.integers(len(self.cases)))
            centre = int(rng.integers(self.cases[number].image.shape[1]))
        else:
            class_id = list(self.cases_by_class)[int(rng.integers(len(self.cases_by_class)))]
            number = self.cases_by_class[class_id][int(rng.integers(len(self.cases_by_class[class_id])))]
            first, last = self.extents[number][class_id]
            centre = int(rng.integers(first, last + 1))
            if kind < config.anywhere_fraction + config.boundary_fraction:
                centre = first if rng.random() < 0.5 else last
        depth = self.cases[number].image.shape[1]
        largest = min(config.max_slice_step, max(1, (depth - 1) // max(1, length - 1)))
        step = int(rng.integers(1, largest + 1))
        start = centre - step * int(rng.integers(length))
        start = int(np.clip(start, 0, max(0, depth - 1 - step * (length - 1))))
        slices = np.clip(start + step * np.arange(length), 0, depth - 1)
        if rng.random() < 0.5:
            return number, slices[::-1].copy(), -step
        return number, slices, step


def class_intensity_shifts(
    case: Case, slices: npt.NDArray[np.intp], context: int, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Random offsets (T, C', H, W) for slices of a case and their neighbours that shift each class's intensity.

    Constant inside a class, per channel, and smooth across its edges: as the same organ before, during and after
    contrast agent.
    """
    assert case.labels is not None
    channels = case.image.shape[0]
    shape = channels, int(case.labels.max()) + 1
    shifts = rng.uniform(-MAX_INTENSITY_SHIFT, MAX_INTENSITY_SHIFT, shape).astype(np.float32)
    shifts[:, 0] = 0
    shifts[:, IGNORED:] = 0
    offsets = with_neighbours(np.stack([shift[case.labels] for shift in shifts]), slices, context)
    return F.avg_pool2d(torch.from_numpy(offsets), 3, stride=1, padding=1).numpy()


def _extents(labels: npt.NDArray[np.uint8] | None) -> dict[int, tuple[int, int]]:
    """First and last slice by class, of labels (D, H, W)."""
    assert labels is not None
    extents = {}
    for class_id in np.unique(labels):
        if class_id not in (0, IGNORED):
            indices = np.flatnonzero((labels == class_id).any((1, 2)))
            extents[int(class_id)] = (int(indices[0]), int(indices[-1]))
    return extents


def collate(clips: Sequence[Clip]) -> Clip:
    """Stack clips into a batch (B, T, ...)."""
    return Clip(*(torch.stack([getattr(c, name) for c in clips]) for name in ("slices", "labels", "step")))
