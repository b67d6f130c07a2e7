"""Settings of the network and of training: immutable, validated, saved as JSON beside the weights."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Propagation = Literal["none", "previous", "aggregated"]
Strength = Literal["light", "strong"]


class ModelConfig(BaseModel):
    """Architecture of the network (see docs/concepts)."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    in_channels: int = Field(ge=1, le=4096)
    """Image channels per slice, neighbours included: C * (2 * context_slices + 1)."""
    num_classes: int = Field(ge=2, le=65536)
    """Number of classes, background included; each has one centre."""
    encoder: str = "tiny"
    """Name in :data:`s2vnet.model.encoder.ENCODERS`."""
    stem_stride: Literal[1, 2, 4] = 1
    """Stride of the finest feature map, which is the grid of the masks."""
    dim: int = Field(default=96, ge=8, le=4096)
    """Channels d of a centre."""
    mask_dim: int = Field(default=32, ge=8, le=4096)
    """Channels of the mask features F."""
    heads: int = Field(default=4, ge=1, le=4096)
    """Heads of the self-attention between centres."""
    layers_per_level: int = Field(default=1, ge=1, le=64)
    """Number of clustering layers on each of the three coarser maps."""
    assignment: Literal["hard", "soft"] = "hard"
    """Assignment of pixels to centres: argmax (kMaX-DeepLab, arXiv 2207.04044) or softmax over the centres."""
    propagation: Propagation = "aggregated"
    """What a slice receives from the previous slice: nothing, its centres, or recurrently aggregated centres."""
    mask_prior: bool = True
    """Whether the previous slice's soft mask of a class is passed on with its centre."""
    auxiliary_masks: bool = False
    """Whether the pixel decoder's own class logits are added to those of the centres' masks."""
    through_time: bool = True
    """Whether, in training, gradients flow back through previous slices (docs/decisions/005)."""
    min_area: float = 0.5
    """Predicted area (mask cells) below which a class counts as absent from a slice."""


class TrainConfig(BaseModel):
    """Settings of a training run."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    epochs: int = Field(default=48, ge=1)
    """Number of epochs, each of ``steps_per_epoch`` optimiser steps."""
    steps_per_epoch: int = Field(default=50, ge=1)
    """Optimiser steps per epoch."""
    batch_size: int = Field(default=4, ge=1)
    """Clips per optimiser step, over all processes."""
    clip_length: int = Field(default=6, ge=1)
    """Consecutive slices per clip."""
    max_slice_step: int = Field(default=2, ge=1)
    """Largest step between consecutive slices of a clip."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """Peak learning rate, after the warm-up; it then decays polynomially (exponent 0.9, as in nnU-Net)."""
    weight_decay: float = Field(default=0.02, ge=0)
    """Weight decay of AdamW, on matrices and filters."""
    warmup_steps: int = Field(default=50, ge=0)
    """Steps of linear warm-up of the learning rate."""
    pretrained: bool = True
    """Whether to start from the ImageNet weights of encoders for which the package contains them."""
    ema_decay: float = Field(default=0.995, ge=0, lt=1)
    """Decay of the exponential moving average of the weights; the averaged weights are saved."""
    gradient_clip: float = Field(default=1.0, gt=0)
    """Norm to which gradients are clipped."""
    state_drop: float = Field(default=0.1, ge=0, le=1)
    """Probability, per class and slice, that the propagated centre is dropped."""
    feature_dropout: float = Field(default=0.15, ge=0, lt=1)
    """Probability, per slice and channel, that a feature map of the encoder is dropped (docs/decisions/006)."""
    boundary_fraction: float = Field(default=0.25, ge=0, le=1)
    """Fraction of clips that straddle the first or last slice of a class."""
    anywhere_fraction: float = Field(default=0.1, ge=0, le=1)
    """Fraction of clips drawn uniformly over cases and slices, regardless of the classes in them."""
    slice_fraction: float = Field(default=0.0, ge=0, le=1)
    """Fraction of steps on independent slices, which train the encoder and the pixel decoder alone: half the cost."""
    augmentation: Strength = "light"
    """Strength of the augmentation; strong for few cases."""
    shift_fraction: float = Field(default=0.0, ge=0, le=1)
    """Fraction of clips in which the intensity of each class is shifted independently, as by contrast agents."""
    layer_loss_weight: float = 0.3
    """Weight of the deep-supervision losses of the clustering layers."""
    presence_loss_weight: float = 0.1
    """Weight of the classification loss of the classes present in a slice."""
    auxiliary_loss_weight: float = 0.4
    """Weight of the loss of the pixel decoder's auxiliary logits."""
    rarity_exponent: float = Field(default=0.5, ge=0, le=1)
    """Exponent of the class weights in the cross-entropy: 0 for equal weights, 1 for inverse frequency."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Precision, as Lightning Fabric names it; bf16-mixed for GPUs and CPUs with bfloat16 (avx512_bf16, amx_bf16)."""
    checkpoint_minutes: float = Field(default=2.0, gt=0)
    """Minutes between checkpoints."""
    seed: int = 0
    """Seed of weights and clips."""
