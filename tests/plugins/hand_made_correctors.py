"""Correctors with known answers, and a segmented volume of noise with given labels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from s2vnet.inference.correction_maps import SegmentedVolume


def everything(pixels: Tensor, cells: Tensor) -> Tensor:
    """Change every pixel of the window."""
    return torch.full_like(pixels[:, :, 0], 5.0)


def nothing(pixels: Tensor, cells: Tensor) -> Tensor:
    """Change no pixel."""
    return torch.full_like(pixels[:, :, 0], -5.0)


def like_intensity(pixels: Tensor, cells: Tensor) -> Tensor:
    """Change pixels whose intensity is that of the prompt."""
    return (1 - 2 * pixels[:, :, 1].abs()).clamp(-1, 1)


def segmented(labels: Tensor, image: Tensor | None = None, classes: int = 4, seed: int = 0) -> SegmentedVolume:
    """Volume whose probabilities agree with labels (D, H, W), on cells of 2 x 2 pixels."""
    generator = torch.Generator().manual_seed(seed)
    cells = labels[:, ::2, ::2]
    scores = 4 * torch.nn.functional.one_hot(cells.long(), classes).permute(0, 3, 1, 2).float()
    scores = scores + torch.randn(scores.shape, generator=generator)
    features = torch.randn((len(labels), 6, *cells.shape[1:]), generator=generator)
    if image is None:
        image = labels.float() + 0.1 * torch.randn(labels.shape, generator=generator)
    return SegmentedVolume(image, scores.softmax(1), features, 2.0)


def block(shape: tuple[int, int, int], *ends: tuple[int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Mask of a block of pixels."""
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b) for a, b in ends)] = True
    return mask
