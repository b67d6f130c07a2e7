"""Inputs and outputs of the network, and the interface that the torch module shares with its exported graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from s2vnet.config import ModelConfig
from s2vnet.model.aggregation import PropagationState
from s2vnet.model.pixel_decoder import Features


class DecoderOutput(NamedTuple):
    """Output of decoding B slices."""

    logits: Tensor
    """Class logits (B, K, h, w) at the mask features' stride."""
    presence: Tensor
    """Presence logits (B, K) of each class on the slice."""
    layer_logits: tuple[Tensor, ...]
    """Class affinities (B, K, h_l, w_l) of every clustering layer, coarsest first, for deep supervision."""
    state: PropagationState
    """State that enters the next slice."""

    @classmethod
    def concatenate(cls, outputs: Sequence[DecoderOutput]) -> DecoderOutput:
        """Concatenate outputs along the batch axis, without the layers' logits."""
        logits, presence = torch.cat([o.logits for o in outputs]), torch.cat([o.presence for o in outputs])
        return cls(logits, presence, (), PropagationState.concatenate([o.state for o in outputs]))

    def split(self) -> list[DecoderOutput]:
        """Split into the outputs of single slices, without the layers' logits."""
        parts = zip(self.logits.split(1), self.presence.split(1), *(x.split(1) for x in self.state), strict=True)
        return [DecoderOutput(logits, presence, (), PropagationState(*state)) for logits, presence, *state in parts]


class SliceInput(NamedTuple):
    """One slice to decode, as a batch of one."""

    features: Features
    state: PropagationState


class Network(Protocol):
    """Interface of :class:`s2vnet.model.s2vnet.S2VNet` and of its exported graphs."""

    @property
    def config(self) -> ModelConfig:
        """Configuration of the network."""

    @property
    def stride(self) -> int:
        """Divisor of the height and width of slices."""

    def encode_slices(self, slices: Tensor) -> Sequence[Features]:
        """Encode slices (N, C, H, W) to the features of each."""

    def initial_state(self, features: Features, direction: Tensor | None = None) -> PropagationState:
        """Return the state that enters the first slice; see :func:`initial_state`."""

    def decode_slices(self, inputs: Sequence[SliceInput]) -> list[DecoderOutput]:
        """Decode slices independently of each other."""


def initial_state(config: ModelConfig, features: Features, direction: Tensor | None = None) -> PropagationState:
    """Return the state that enters the first slice of B sequences, without carried centres.

    Args:
        config: Configuration of the network.
        features: Features of the first slice of each of B sequences.
        direction: (B,) slice order: +1 rising, -1 falling, 0 (default) unknown.
    """
    batch, _, height, width = features.mask.shape
    k, device = config.num_classes, features.mask.device
    return PropagationState(
        centres=torch.zeros(batch, k, config.dim, device=device),
        known=torch.zeros(batch, k, device=device),
        missed=torch.zeros(batch, k, device=device),
        masks=torch.zeros(batch, k, height, width, device=device),
        direction=torch.zeros(batch, device=device) if direction is None else direction,
    )
