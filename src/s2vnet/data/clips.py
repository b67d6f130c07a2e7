"""Clips of slices for training: which slices, in which order, of which case; a clip is a function of its index."""

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
from s2vnet.data.preprocess import Case, with_neighbours

MAX_INTENSITY_SHIFT = 1.2
"""Of a class's brightness, in standard deviations of the normalised image: in CT some 70 HU."""


class Clip(NamedTuple):
    """A clip or, with a leading axis, a batch of clips."""

    slices: Tensor
    """(T, C', H, W) slices with their neighbours as channels."""
    labels: Tensor
    """(T, H, W) class per pixel."""
    step: Tensor
    """() signed slice step: +2 means every second slice, rising."""


class ClipDataset(Dataset[Clip]):
    """Clips of consecutive slices, balanced over classes.

    Item `i` depends on (seed, i) alone: a resumed run, or one spread over processes, sees the same clips.
    """

    def __init__(
        self, cases: Sequence[Case], patch_size: tuple[int, int], context: int, config: TrainConfig, length: int
    ) -> None:
        """Args: cases (with labels), in-plane size (H, W) of a clip, neighbours each side, and number of clips."""
        self.cases = [case for case in cases if case.labels is not None]
        self.patch_size, self.context, self.config, self.length = patch_size, context, config, length
        self.augment = Augmentation(patch_size, config.augmentation)
        self.extents = [_extents(case.labels) for case in self.cases]
        classes = sorted({c for extent in self.extents for c in extent})
        self.having = {c: [n for n, extent in enumerate(self.extents) if c in extent] for c in classes}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Clip:
        rng = np.random.default_rng((self.config.seed, index))
        number, slices, step = self._choose(rng)
        case = self.cases[number]
        assert case.labels is not None
        image = with_neighbours(case.image, slices, self.context)
        if self.config.shift_fraction and rng.random() < self.config.shift_fraction:
            image = image + class_intensity_shifts(case, slices, self.context, rng)
        patch, labels = self.augment(image, case.labels[slices], rng)
        return Clip(patch, labels, torch.tensor(step))

    def _choose(self, rng: np.random.Generator) -> tuple[int, npt.NDArray[np.intp], int]:
        """A case, the slices of a clip in it (the last one repeated where there are too few), and their step."""
        config = self.config
        kind = rng.random()
        if kind < config.anywhere_fraction or not self.having:
            number = int(rng.integers(len(self.cases)))
            centre = int(rng.integers(self.cases[number].image.shape[1]))
        else:
            class_id = list(self.having)[int(rng.integers(len(self.having)))]
            number = self.having[class_id][int(rng.integers(len(self.having[class_id])))]
            first, last = self.extents[number][class_id]
            centre = int(rng.integers(first, last + 1))
            if kind < config.anywhere_fraction + config.boundary_fraction:
                centre = first if rng.random() < 0.5 else last
        depth = self.cases[number].image.shape[1]
        length = config.clip_length
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
    """What to add to slices (T, C', H, W) of a case, with their neighbours, to change each class's brightness.

    One step for each class and channel, even inside the class and smooth across its edges: to a network the same organ
    before, during and after the contrast agent.
    """
    assert case.labels is not None
    channels = case.image.shape[0]
    steps = rng.uniform(-MAX_INTENSITY_SHIFT, MAX_INTENSITY_SHIFT, (channels, int(case.labels.max()) + 1)).astype(
        np.float32
    )
    steps[:, 0] = 0
    shown = with_neighbours(np.stack([step[case.labels] for step in steps]), slices, context)
    return F.avg_pool2d(torch.from_numpy(shown), 3, stride=1, padding=1).numpy()


def _extents(labels: npt.NDArray[np.uint8] | None) -> dict[int, tuple[int, int]]:
    """First and last slice of every class that a case shows; labels (D, H, W)."""
    assert labels is not None
    found = {}
    for class_id in np.unique(labels):
        if class_id:
            where = np.flatnonzero((labels == class_id).any((1, 2)))
            found[int(class_id)] = (int(where[0]), int(where[-1]))
    return found


def collate(clips: Sequence[Clip]) -> Clip:
    """Stack clips into a batch (B, T, ...)."""
    return Clip(*(torch.stack([getattr(c, name) for c in clips]) for name in ("slices", "labels", "step")))
