"""Recurrent centroid aggregation: what the next slice receives from this one.

S2VNet fuses historical centres into a single vector (paper, recurrent centroid aggregation); the exact form is not
public. Here it is a gated running mean with presence: an absent class's slot falls back to its learned centre after
two misses (Figure 2: only present centres propagate). Centres of prompts travel beside them and go with their class.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from s2vnet.config import ModelConfig


class PropagationState(NamedTuple):
    """What slice t hands to slice t+1, per sequence (B) and class (K)."""

    centres: Tensor
    """(B, K, d) aggregated centres."""
    known: Tensor
    """(B, K) 1 where the centre is carried, 0 where the learned one starts."""
    missed: Tensor
    """(B, K) 1 where the class was absent from the slice just seen."""
    masks: Tensor
    """(B, K, h, w) soft masks of the slice just seen; a centre's place and extent."""
    prompt_centres: Tensor
    """(B, K, d) centres of prompts on this slice or on those before it."""
    prompted: Tensor
    """(B, K) 1 where such a centre is carried."""
    direction: Tensor
    """(B,) +1, -1 or 0: order in which slices come."""

    def reset(self, classes: Tensor) -> PropagationState:
        """State without what was carried of some classes; `classes` (B, K) is 1 where to forget."""
        keep = 1 - classes
        masks = self.masks * keep[..., None, None]
        return self._replace(known=self.known * keep, masks=masks, prompted=self.prompted * keep)


class Aggregator(nn.Module):
    """Update of the carried state by a decoded slice."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.gate = nn.Linear(2 * config.dim + 1, 1)
        nn.init.constant_(self.gate.bias, 1.0)

    def forward(
        self, state: PropagationState, centres: Tensor, fresh: Tensor, presence: Tensor, logits: Tensor
    ) -> PropagationState:
        """Next state.

        Trained through time, what a slice leaves learns from later slices. Otherwise a slice learns from its own
        labels: of what it leaves, only how much to keep (the gate) learns from later ones.

        Args:
            state: state the slice was decoded with.
            centres: (B, 2K, d) slot and prompt rows after clustering, or (B, K, d) where there are none of prompts.
            fresh: (B, K) 1 where a class is prompted on the slice itself.
            presence: (B, K) presence logits.
            logits: (B, K, h, w) class logits.
        """
        if self.config.propagation == "none":
            return state
        before = state.centres
        if not self.config.through_time:
            before, centres, presence, logits = (x.detach() for x in (before, centres, presence, logits))
        classes = self.config.num_classes
        centres, prompt_centres = centres[:, :classes], centres[:, classes:]
        if not prompt_centres.shape[1]:
            prompt_centres = state.prompt_centres
        masks = logits.softmax(1)
        present = ((presence > 0) & (masks.sum((-2, -1)) >= self.config.min_area)).to(centres.dtype)
        present = torch.cat([torch.ones_like(present[:, :1]), present[:, 1:]], 1)
        update = torch.ones_like(present)[..., None]
        if self.config.propagation == "aggregated":
            gate = self.gate(torch.cat([before, centres, presence.sigmoid()[..., None]], -1)).sigmoid()
            carried = state.known[..., None]
            update = carried * gate + (1 - carried)
        update = update * present[..., None]
        # a prompt outlasts one slice even if the network does not see its class there
        lasting = state.prompted * (present + (1 - present) * (1 - state.missed))
        return PropagationState(
            centres=(1 - update) * before + update * centres,
            known=present + (1 - present) * state.known * (1 - state.missed),
            missed=1 - present,
            masks=masks,
            prompt_centres=prompt_centres,
            prompted=torch.maximum(fresh, lasting) if self.config.carry_prompts else torch.zeros_like(fresh),
            direction=state.direction,
        )
