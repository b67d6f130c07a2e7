"""Losses of one decoded clip: cross-entropy and Dice on masks and on every clustering layer, presence, auxiliary."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.losses.dice import DiceLoss
from torch import Tensor

from s2vnet.config import TrainConfig
from s2vnet.model.s2vnet import DecoderOutput

# Per clip, so that the loss of a batch is the mean over its clips and does not depend on how they are spread over
# processes; smoothing makes a class that neither clip nor prediction shows cost nothing.
_dice = DiceLoss(include_background=False, softmax=True, to_onehot_y=True, smooth_nr=1.0, smooth_dr=1.0)


LARGEST_WEIGHT = 10.0
"""Of a class in the cross-entropy, the largest class having 1."""


def class_weights(counts: Sequence[int], exponent: float) -> Tensor:
    """Weight (K,) of each class in the cross-entropy: a power of how much rarer it is than the largest class.

    Without it a class of few pixels stays unfound for as long as the others have anything left to gain
    (docs/decisions/007-abdomen.md). Background has 1, as has a class that no case shows.

    Args:
        counts: pixels of each class in the training cases, background first.
        exponent: 0 weighs all alike, 1 by inverse frequency.
    """
    found = torch.tensor(counts, dtype=torch.float64)
    rarity = torch.where(found > 0, found[1:].amax() / found.clamp_min(1), 1)
    weights = rarity.pow(exponent).clamp(1, LARGEST_WEIGHT)
    weights[0] = 1
    return weights.float()


def segmentation_loss(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None, emphasis: Tensor | None = None
) -> Tensor:
    """Cross-entropy plus Dice of logits (B, K, T, h, w) against labels (B, T, h, w), Dice without background.

    `weights` (K,) multiply a pixel's cross-entropy by its class, `emphasis` (B, T, h, w) by its place.
    """
    entropy = F.cross_entropy(logits, labels, weights, reduction="none")
    entropy = (entropy if emphasis is None else entropy * emphasis).mean()
    loss: Tensor = entropy + _dice(logits, labels[:, None])
    return loss


def clip_loss(
    decoded: Sequence[DecoderOutput],
    auxiliary: Tensor,
    labels: Tensor,
    config: TrainConfig,
    weights: Tensor | None = None,
    asked: Tensor | None = None,
) -> Tensor:
    """Loss of T decoded slices of B clips.

    Args:
        decoded: one per slice.
        auxiliary: (B, T, K, h, w) logits of the pixel decoder alone.
        labels: (B, T, H, W).
        config: loss weights.
        weights: (K,) of classes (:func:`class_weights`); all 1 if None.
        asked: (B, T, h, w) 1 in errors that a user wants mended; the final masks there count more.
    """
    logits = torch.stack([d.logits for d in decoded], 2)
    emphasis = None
    if asked is not None and config.mending_weight:
        emphasis = 1 + config.mending_weight * F.interpolate(asked, size=labels.shape[-2:], mode="nearest-exact")
    loss = segmentation_loss(_upsample_logits(logits, labels), labels, weights, emphasis)
    levels = [torch.stack(level, 2) for level in zip(*(d.layer_logits for d in decoded), strict=True)]
    for level in levels:
        loss = loss + config.layer_loss_weight / len(levels) * segmentation_loss(
            level, downsample_labels(labels, level.shape[-2:]), weights
        )
    presence = torch.stack([d.presence for d in decoded], 1)
    shown = torch.zeros_like(presence).scatter_(2, labels.flatten(2), 1)
    loss = loss + config.presence_loss_weight * F.binary_cross_entropy_with_logits(presence, shown)
    # not grown: it teaches the features only, and is never shown
    auxiliary = segmentation_loss(auxiliary.transpose(1, 2), downsample_labels(labels, auxiliary.shape[-2:]), weights)
    return loss + config.auxiliary_loss_weight * auxiliary


def downsample_labels(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Labels (B, T, H, W) to (B, T, h, w) by the nearest pixel."""
    if tuple(labels.shape[-2:]) == tuple(size):
        return labels
    return F.interpolate(labels.float(), size=tuple(size), mode="nearest-exact").long()


def _upsample_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits (B, K, T, h, w) to the labels' height and width."""
    if logits.shape[-2:] == labels.shape[-2:]:
        return logits
    grown = F.interpolate(logits.flatten(1, 2), size=labels.shape[-2:], mode="bilinear")
    unflat: Tensor = grown.unflatten(1, logits.shape[1:3])
    return unflat
