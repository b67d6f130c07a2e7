"""Loss of a correction: net gain of the change, and cross-entropy."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

OPTIONAL_WEIGHT, REQUIRED_WEIGHT = 0.2, 4.0
TOLERANCE = 0.25
"""Probability below which a right pixel costs nothing in the net gain."""


def correction_loss(logits: Tensor, required: Tensor, wrong: Tensor, right: Tensor) -> Tensor:
    """Net gain and cross-entropy of the change of B windows.

    The gain counts pixels of the error that change, minus right pixels that change, in units of the error's size, so
    that small errors weigh as much as large ones.

    Args:
        logits: (B, D, H, W).
        required: pixels of the error that was prompted on, in [0, 1].
        wrong: pixels of this and other errors of the same kind; the others may change or not.
        right: eligible pixels that must not change.
    """
    probability = logits.sigmoid()
    dims = (1, 2, 3)
    size = required.sum(dims) + 10
    optional = (wrong - required).clamp(0, 1)
    gained = (probability * required).sum(dims) / size
    extra = torch.minimum((probability * optional).sum(dims) / size, torch.ones_like(size))
    spoilt = (F.relu(probability - TOLERANCE) / (1 - TOLERANCE) * right).sum(dims) / size
    net = OPTIONAL_WEIGHT * extra + gained - torch.log1p(2 * spoilt)
    weight = REQUIRED_WEIGHT * required + OPTIONAL_WEIGHT * optional + right
    target = wrong
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    # by window: half for the error, half for the rest, so that a small error is not lost in a large window
    inside = (entropy * required).sum(dims) / size
    outside = (entropy * right).sum(dims) / (right.sum(dims) + 1)
    mean = (entropy * weight).sum(dims) / (weight.sum(dims) + 1)
    return (1 - net + inside * 0.5 + outside * 2 + mean * 4).mean()
