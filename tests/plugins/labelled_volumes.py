"""A small labelled volume with errors, for the training of the corrector."""

from __future__ import annotations

import torch
from hand_made_correctors import segmented

from s2vnet.training.correction_episodes import LabelledVolume, find_parts


def labelled(seed: int = 0) -> LabelledVolume:
    """Two organs, of which the labels lack a piece of the first, and give the second too much."""
    truth = torch.zeros((20, 64, 64), dtype=torch.uint8)
    truth[4:16, 8:40, 8:30] = 1
    truth[2:18, 20:50, 36:56] = 2
    labels = truth.clone()
    labels[6:12, 20:40, 8:30] = 0
    labels[8:14, 50:60, 40:50] = 2
    volume = segmented(labels, truth.float() + 0.1 * torch.randn(truth.shape), seed=seed)
    parts = [part for radius in (2, 0) for part in find_parts(labels.numpy(), truth.numpy(), radius)]
    return LabelledVolume(volume, labels, truth, parts)
