"""Losses of decoded clips: cross-entropy and Dice of masks and clustering layers, presence, auxiliary masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.losses.dice import DiceLoss
from torch import Tensor

from s2vnet.config import TrainConfig
from s2vnet.data.label_definitions import IGNORED
from s2vnet.model.interface import DecoderOutput

# Per clip, so that the loss of a batch does not depend on how clips are distributed over processes; with smoothing, a
# class absent from clip and prediction has loss 0.
_dice = DiceLoss(include_background=False, softmax=True, to_onehot_y=True, smooth_nr=1.0, smooth_dr=1.0)
_dice_of_probabilities = DiceLoss(include_background=False, smooth_nr=1.0, smooth_dr=1.0)

MAX_CLASS_WEIGHT = 10.0
"""Largest weight of a class in the cross-entropy; the most frequent class has weight 1."""


def class_weights(counts: Sequence[int], exponent: float) -> Tensor:
    """Return class weights (K,) for the cross-entropy: a power of the inverse frequency.

    Without them, classes of few pixels are learned late (docs/decisions/007-abdomen.md). Background and classes
    without pixels have weight 1.

    Args:
        counts: pixels of each class in the training cases, background first.
        exponent: 0 for equal weights, 1 for inverse frequencies.
    """
    pixels = torch.tensor(counts, dtype=torch.float64)
    rarity = torch.where(pixels > 0, pixels[1:].amax() / pixels.clamp_min(1), 1)
    weights = rarity.pow(exponent).clamp(1, MAX_CLASS_WEIGHT)
    weights[0] = 1
    return weights.float()


def segmentation_loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Compute cross-entropy plus Dice (without background) of logits (B, K, T, h, w) and labels (B, T, h, w).

    The cross-entropy is weighted by class with `weights` (K,). Pixels whose label is
    :data:`s2vnet.data.label_definitions.IGNORED` do not count.
    """
    known = labels != IGNORED
    if not known.all():
        return _partial_loss(logits, labels, known, weights)
    loss: Tensor = F.cross_entropy(logits, labels, weights, reduction="none").mean() + _dice(logits, labels[:, None])
    return loss


def _partial_loss(logits: Tensor, labels: Tensor, known: Tensor, weights: Tensor | None) -> Tensor:
    """:func:`segmentation_loss` over the known pixels (B, T, h, w) of each clip."""
    labels = labels.where(known, 0)
    entropy = F.cross_entropy(logits, labels, weights, reduction="none") * known
    entropy = (entropy.flatten(1).sum(1) / known.flatten(1).sum(1).clamp_min(1)).mean()
    truth = F.one_hot(labels, logits.shape[1]).movedim(-1, 1)
    loss: Tensor = entropy + _dice_of_probabilities(logits.softmax(1) * known[:, None], truth * known[:, None])
    return loss


def clip_loss(
    decoded: Sequence[DecoderOutput],
    auxiliary: Tensor,
    labels: Tensor,
    config: TrainConfig,
    weights: Tensor | None = None,
) -> Tensor:
    """Compute the loss of T decoded slices of B clips.

    Args:
        decoded: output of the decoder for each slice.
        auxiliary: (B, T, K, h, w) logits of the pixel decoder alone.
        labels: (B, T, H, W), :data:`s2vnet.data.label_definitions.IGNORED` where the class is unknown.
        config: loss weights.
        weights: (K,) class weights (:func:`class_weights`); None for equal weights.
    """
    logits = torch.stack([d.logits for d in decoded], 2)
    loss = segmentation_loss(upsample_logits(logits, labels), labels, weights)
    levels = [torch.stack(level, 2) for level in zip(*(d.layer_logits for d in decoded), strict=True)]
    for level in levels:
        loss = loss + config.layer_loss_weight / len(levels) * segmentation_loss(
            level, downsample_labels(labels, level.shape[-2:]), weights
        )
    presence = torch.stack([d.presence for d in decoded], 1)
    loss = loss + config.presence_loss_weight * _presence_loss(presence, labels.flatten(2))
    # at its own resolution: it only supervises the features
    auxiliary = segmentation_loss(auxiliary.transpose(1, 2), downsample_labels(labels, auxiliary.shape[-2:]), weights)
    return loss + config.auxiliary_loss_weight * auxiliary


def _presence_loss(presence: Tensor, labels: Tensor) -> Tensor:
    """Classification loss of presence logits (B, T, K) of slices with labels (B, T, n).

    On slices with unknown pixels, only classes that are seen are known to be present or not.
    """
    known = labels != IGNORED
    if known.all():
        present = torch.zeros_like(presence).scatter_(2, labels, 1)
        return F.binary_cross_entropy_with_logits(presence, present)
    present = torch.zeros_like(presence).scatter_reduce_(2, labels.where(known, 0), known.to(presence), "amax")
    certain = known.all(2, keepdim=True) | (present > 0)
    losses = F.binary_cross_entropy_with_logits(presence, present, reduction="none") * certain
    return (losses.flatten(1).sum(1) / certain.flatten(1).sum(1).clamp_min(1)).mean()


def downsample_labels(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Downsample labels (B, T, H, W) to `size` (h, w) by nearest neighbor."""
    if tuple(labels.shape[-2:]) == tuple(size):
        return labels
    return F.interpolate(labels.float(), size=tuple(size), mode="nearest-exact").long()


def upsample_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Upsample logits (B, K, T, h, w) to the size of labels (B, T, H, W), bilinearly."""
    if logits.shape[-2:] == labels.shape[-2:]:
        return logits
    upsampled = F.interpolate(logits.flatten(1, 2), size=labels.shape[-2:], mode="bilinear")
    unflattened: Tensor = upsampled.unflatten(1, logits.shape[1:3])
    return unflattened
