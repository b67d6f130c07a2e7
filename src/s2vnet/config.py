"""Every number of the network and of its training, named once. Frozen, validated, saved as JSON beside the weights."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Propagation = Literal["none", "previous", "aggregated"]
Strength = Literal["light", "strong"]


class ModelConfig(BaseModel):
    """Shape of the network (see docs/concepts)."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    in_channels: int = Field(ge=1, le=4096)
    """Image channels per slice, neighbours included: C * (2 * context_slices + 1)."""
    num_classes: int = Field(ge=2, le=65536)
    """Classes with background, one centre each."""
    encoder: str = "tiny"
    """Name in :data:`s2vnet.model.encoder.ENCODERS`."""
    stem_stride: Literal[1, 2, 4] = 1
    """Stride of the finest feature map, on which masks are made."""
    dim: int = Field(default=96, ge=8, le=4096)
    """Width d of a centre."""
    mask_dim: int = Field(default=32, ge=8, le=4096)
    """Channels of the mask features F."""
    heads: int = Field(default=4, ge=1, le=4096)
    """Attention heads between centres."""
    layers_per_level: int = Field(default=1, ge=1, le=64)
    """Clustering layers on each of the three coarser maps."""
    assignment: Literal["hard", "soft"] = "hard"
    """How pixels choose their centre: argmax (kMaX-DeepLab, arXiv 2207.04044) or softmax over the centres."""
    propagation: Propagation = "aggregated"
    """What a slice receives from the slice before: nothing, its centres, or recurrently aggregated centres."""
    mask_prior: bool = True
    """Whether a centre also carries where its class was: the previous slice's soft mask."""
    carry_prompts: bool = True
    """Whether the centre of a prompt travels to later slices, and not only what it changed (docs/decisions/007)."""
    prompt_reach: int = Field(default=8, ge=2)
    """Slices on either side of a prompted one that are told where it is (docs/decisions/007)."""
    auxiliary_masks: bool = False
    """Whether the masks are what centres add to the pixel decoder's own class logits, instead of all there is."""
    through_time: bool = True
    """Whether, in training, the loss of a slice flows back into those before it (docs/decisions/005)."""
    min_area: float = 0.5
    """Predicted area (mask cells) under which a class counts as absent from a slice."""


class TrainConfig(BaseModel):
    """One training run for both modes."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    epochs: int = Field(default=48, ge=1)
    """An epoch is ``steps_per_epoch`` optimiser steps."""
    steps_per_epoch: int = Field(default=50, ge=1)
    """Optimiser steps per epoch."""
    batch_size: int = Field(default=4, ge=1)
    """Clips per step over all processes."""
    clip_length: int = Field(default=6, ge=1)
    """Consecutive slices per clip."""
    max_slice_step: int = Field(default=2, ge=1)
    """Largest stride between a clip's slices."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """Largest learning rate, after the warm-up; then it falls polynomially (nnU-Net's exponent 0.9)."""
    weight_decay: float = Field(default=0.02, ge=0)
    """AdamW's, on matrices and filters."""
    warmup_steps: int = Field(default=50, ge=0)
    """Steps over which the learning rate rises."""
    pretrained: bool = True
    """Whether an encoder whose ImageNet weights come with the package starts from them."""
    ema_decay: float = Field(default=0.995, ge=0, lt=1)
    """Of the averaged weights, which are what is saved."""
    gradient_clip: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient."""
    interactive_fraction: float = Field(default=0.6, ge=0, le=1)
    """Share of clips trained with simulated prompts; 0 trains automatic mode only."""
    interactive_start: float = Field(default=0.0, ge=0, lt=1)
    """Share of the training that goes by before the first simulated user comes: automatic mode is cheaper to train."""
    max_correction_rounds: int = Field(default=4, ge=1)
    """Most rounds of corrections that a simulated user makes on a clip."""
    correction_fraction: float = Field(default=0.85, gt=0, le=1)
    """Chance that a simulated user corrects a class in a round: of few prompts, each has to mend more."""
    mending_weight: float = Field(default=0.0, ge=0)
    """How much more pixels count, in the final masks, in an error that a simulated user has prompted on."""
    first_slice_fraction: float = Field(default=0.5, ge=0, le=1)
    """Share of simulated users who see and prompt only the slice that their clip begins with."""
    state_drop: float = Field(default=0.1, ge=0, le=1)
    """Chance, per class and slice, that the carried centre is forgotten."""
    feature_dropout: float = Field(default=0.15, ge=0, lt=1)
    """Chance, per slice and channel, that one of the encoder's maps is dropped (docs/decisions/006)."""
    boundary_fraction: float = Field(default=0.25, ge=0, le=1)
    """Share of clips that straddle the first or last slice of an organ."""
    anywhere_fraction: float = Field(default=0.1, ge=0, le=1)
    """Share of clips drawn without regard to what they show."""
    augmentation: Strength = "light"
    """How much clips are changed; strong for few cases."""
    shift_fraction: float = Field(default=0.0, ge=0, le=1)
    """Share of clips in which every class is made brighter or darker by itself, as contrast agents do."""
    layer_loss_weight: float = 0.3
    """Weight of the losses of the clustering layers' own masks."""
    presence_loss_weight: float = 0.1
    """Weight of the loss of which classes a slice shows."""
    auxiliary_loss_weight: float = 0.4
    """Weight of the loss of the pixel decoder's own masks."""
    rarity_exponent: float = Field(default=0.5, ge=0, le=1)
    """How much more a pixel of a rare class counts in the cross-entropy: 0 no more, 1 by inverse frequency."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Fabric's name; bf16-mixed for GPUs, and for CPUs that have bfloat16 (avx512_bf16 or amx_bf16 in lscpu)."""
    checkpoint_minutes: float = Field(default=2.0, gt=0)
    """Time between checkpoints."""
    seed: int = 0
    """Of weights, clips and simulated users."""
