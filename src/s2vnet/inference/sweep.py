"""Sweeps: the decoder's passes over all slices of a volume, in rising and in falling order.

A sweep under prompts is based on the automatic one: from each prompted slice on, slices are decoded again until their
most probable classes agree with those of the automatic sweep; all other slices are the automatic ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from s2vnet.model.aggregation import PropagationState
from s2vnet.model.clustering import argmax_class
from s2vnet.model.interface import Network, SliceInput
from s2vnet.model.pixel_decoder import Features

STORAGE_DTYPE = torch.float16
"""Masks are rounded to this type between slices, so that a sweep resumed from storage gives the same result."""

Key = bytes
"""Digest of all that a decoded slice depends on: the history of its incoming state, and its prompts."""


class DecodedSlice(NamedTuple):
    """Result of decoding one slice in one sweep."""

    masks: Tensor
    """(1, K, h, w) class probabilities in STORAGE_DTYPE."""
    state: PropagationState
    """Outgoing state, whose masks are left empty: they equal :attr:`masks`."""
    matches_automatic: bool
    """Whether every cell has the same most probable class as in the automatic sweep."""


@dataclass
class Sweep:
    """Pass over all slices in one direction."""

    slices: dict[int, DecodedSlice] = field(default_factory=dict)
    """Slices decoded in this sweep."""
    base: Sweep | None = None
    """Automatic sweep with all other slices of a prompted sweep; None for an automatic sweep."""

    def __getitem__(self, d: int) -> DecodedSlice:
        return self.slices[d] if d in self.slices or self.base is None else self.base[d]

    def matches(self, d: int, masks: Tensor) -> bool:
        """Whether the class of every cell of slice `d` in this sweep is a most probable one in `masks` (1, K, h, w)."""
        return torch.equal(masks.gather(1, argmax_class(self[d].masks)[:, None]), masks.amax(1, keepdim=True))

    @property
    def changed(self) -> range:
        """Slices from the first to the last that may differ from the automatic sweep."""
        return range(min(self.slices), max(self.slices) + 1) if self.base and self.slices else range(0)


SweepCallback = Callable[[tuple[Sweep, Sweep], range], None]
"""Called after each step with both sweeps and the slices that both have passed, a growing range; may raise to stop."""


class DecodedStep(NamedTuple):
    """Outputs of decoding one slice of each of several sequences."""

    masks: list[Tensor | None]
    """(1, K, h, w) class probabilities in STORAGE_DTYPE; None for a sequence without a slice in this step."""
    state: list[PropagationState]
    """Incoming state of each sequence's next slice."""


def decode_step(
    model: Network,
    features: Sequence[Features | None],
    states: Sequence[PropagationState],
    maps: Sequence[Tensor | None],
) -> DecodedStep:
    """Decode one slice of each sequence that has one in this step; masks are rounded to STORAGE_DTYPE.

    Args:
        model: network in eval mode.
        features: features of each sequence's slice; None for a sequence without one in this step.
        states: incoming state of each sequence.
        maps: prompt maps (1, K, 4, h, w) of each sequence's slice, or None.
    """
    inputs = zip(features, states, maps, strict=True)
    active = {
        n: SliceInput(part, state, prompts) for n, (part, state, prompts) in enumerate(inputs) if part is not None
    }
    step = DecodedStep([None] * len(states), list(states))
    for n, decoded in zip(active, model.decode_slices(list(active.values())), strict=True):
        propagated = model.config.propagation != "none"
        masks = (decoded.state.masks if propagated else decoded.logits.softmax(1)).to(STORAGE_DTYPE)
        step.masks[n], step.state[n] = masks, with_masks(model, decoded.state, masks)
    return step


def with_masks(model: Network, state: PropagationState, masks: Tensor) -> PropagationState:
    """Outgoing state with its masks filled in; zero where the network does not propagate."""
    filled = masks.float() if model.config.propagation != "none" else torch.zeros_like(masks).float()
    return state._replace(masks=filled)


def average_sweeps(sweeps: tuple[Sweep, Sweep], start: int, stop: int) -> Tensor:
    """Class probabilities (stop - start, K, h, w) of slices start..stop: the mean of both sweeps."""
    return torch.cat([average_directions([sweep[d].masks for sweep in sweeps]) for d in range(start, stop)])


def average_directions(masks: Sequence[Tensor | None]) -> Tensor:
    """Mean (1, K, h, w) of one slice's class probabilities in rising and falling direction, in float32."""
    rising, falling = masks
    assert rising is not None
    assert falling is not None
    return (rising.float() + falling.float()) / 2


def digest(content: bytes) -> Key:
    """16-byte digest of `content`."""
    return hashlib.blake2b(content, digest_size=16).digest()


class SweepCursor:
    """Position of one direction's sweep: which slice to decode next, and with which state.

    Slices that the previous round decoded from the same state and prompts are taken from its cache.
    """

    def __init__(
        self,
        order: range,
        signatures: Mapping[int, bytes],
        base: Sweep | None,
        model: Network,
        initial: PropagationState,
        previous: Mapping[Key, DecodedSlice],
        cache: dict[Key, DecodedSlice],
    ) -> None:
        """Move to the first slice to decode.

        Args:
            order: slice indices in the sweep's order.
            signatures: digest of the prompts on each prompted slice.
            base: the automatic sweep; None while that is computed.
            model: the network.
            initial: state of a sweep's first slice.
            previous: slices decoded in the previous round, by key.
            cache: filled with the slices of this sweep, by key.
        """
        self.sweep = Sweep({}, base)
        self.active = True
        """Whether there is a slice to decode."""
        self.incoming: PropagationState | None = initial
        """Incoming state of the slice; None for the outgoing state of the slice decoded before."""
        self._key = b""  # equal keys mean equal incoming states and equal prompts
        self._order, self._signatures, self._base, self._model = order, signatures, base, model
        self._initial, self._previous, self._cache = initial, previous, cache
        self._position = -1
        self._continuing = False
        self._advance()

    @property
    def slice(self) -> int:
        """Index of the slice to decode; arbitrary if :attr:`active` is False."""
        return self._order[min(self._position, len(self._order) - 1)]

    @property
    def num_final(self) -> int:
        """Number of slices, from the start of the sweep, whose result is final."""
        return self._position

    def record(self, masks: Tensor, state: PropagationState) -> None:
        """Store the decoded slice, and move to the next one to decode."""
        if self.active:
            self._store(DecodedSlice(masks, state, self._base is None or self._base.matches(self.slice, masks)))
            self.incoming = None
            self._advance()

    def _advance(self) -> None:
        """Move to the next slice to decode, past all that the previous round has decoded."""
        self._next()
        while self.active and (decoded := self._previous.get(self._key)) is not None:
            self._store(decoded)
            self.incoming = with_masks(self._model, decoded.state, decoded.masks)
            self._next()

    def _store(self, decoded: DecodedSlice) -> None:
        self.sweep.slices[self.slice] = self._cache[self._key] = decoded
        following = self._order[self._position + 1 : self._position + 2]
        prompted = any(d in self._signatures for d in following)
        self._continuing = self._base is None or prompted or not decoded.matches_automatic

    def _next(self) -> None:
        """Move to the next slice, or to the next prompted one if the sweep agrees with its base again."""
        self._position += 1
        if not self._continuing:
            while self._base and self._position < len(self._order) and self.slice not in self._signatures:
                self._position += 1
            self._key = digest(f"{self._order.step} {self._position}".encode())
            self.incoming = self._base_state()
        self.active = self._position < len(self._order)
        if self.active:
            self._key = digest(self._key + self._signatures.get(self.slice, b""))

    def _base_state(self) -> PropagationState:
        """Incoming state of the slice in the base sweep."""
        if self._base is None or self._position == 0:
            return self._initial
        before = self._base[self._order[self._position - 1]]
        return with_masks(self._model, before.state, before.masks)
