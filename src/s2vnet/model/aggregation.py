"""Recurrent centroid aggregation: the state carried from one slice to the next.

S2VNet fuses historical centres into a single vector (paper, recurrent centroid aggregation); the exact form is not
public. Here it is a gated running mean with presence: the slot of a class that is absent from two slices in a row falls
back to its learned centre (Figure 2: only present centres propagate).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from s2vnet.config import ModelConfig


class PropagationState(NamedTuple):
    """State carried from slice t to slice t+1, per sequence (B) and class (K)."""

    centres: Tensor
    """(B, K, d) aggregated centres."""
    known: Tensor
    """(B, K) 1 where the centre is carried, 0 where the learned centre is used."""
    missed: Tensor
    """(B, K) 1 where the class was absent from the previous slice."""
    masks: Tensor
    """(B, K, h, w) soft masks of the previous slice: location and extent of each class."""
    direction: Tensor
    """(B,) slice order: +1 rising, -1 falling, 0 unknown."""

    @classmethod
    def concatenate(cls, states: Sequence[PropagationState]) -> PropagationState:
        """Concatenate states along the batch axis."""
        return cls(*(torch.cat(parts) for parts in zip(*states, strict=True)))

    def reset(self, classes: Tensor) -> PropagationState:
        """Reset the carried centres and masks of the classes that are 1 in `classes` (B, K)."""
        keep = 1 - classes
        return self._replace(known=self.known * keep, masks=self.masks * keep[..., None, None])


class Aggregator(nn.Module):
    """Gated update of the carried state after a slice is decoded."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.gate = nn.Linear(2 * config.dim + 1, 1)
        nn.init.constant_(self.gate.bias, 1.0)

    def forward(self, state: PropagationState, centres: Tensor, presence: Tensor, logits: Tensor) -> PropagationState:
        """Return the state for the next slice.

        With ``through_time`` the losses of later slices flow back into this one. Otherwise centres, presence and
        logits are detached, and only the gate is trained by later slices.

        Args:
            state: state that entered the slice.
            centres: (B, K, d) centres after clustering.
            presence: (B, K) presence logits.
            logits: (B, K, h, w) class logits.
        """
        if self.config.propagation == "none":
            return state
        before = state.centres
        if not self.config.through_time:
            before, centres, presence, logits = (x.detach() for x in (before, centres, presence, logits))
        masks = logits.softmax(1)
        present = ((presence > 0) & (masks.sum((-2, -1)) >= self.config.min_area)).to(centres.dtype)
        present = F.pad(present[:, 1:], (1, 0), value=1.0)  # background always is
        update = present[..., None]
        if self.config.propagation == "aggregated":
            gate = self.gate(torch.cat([before, centres, presence.sigmoid()[..., None]], -1)).sigmoid()
            carried = state.known[..., None]
            update = (carried * gate + (1 - carried)) * update
        return PropagationState(
            centres=(1 - update) * before + update * centres,
            known=present + (1 - present) * state.known * (1 - state.missed),
            missed=1 - present,
            masks=masks,
            direction=state.direction,
        )
