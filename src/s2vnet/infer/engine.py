"""One encoded volume: slices encoded once, then swept in both directions, with or without prompts.

The result for a set of prompts is a pure function of the image and those prompts: prompted sweeps start from the
automatic ones, never from an earlier prompted result. Automatic mode is the same call without prompts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from s2vnet.model.aggregation import State
from s2vnet.model.pixel_decoder import Features
from s2vnet.model.propagation import propagate
from s2vnet.model.s2vnet import PROMPT_MAPS, Decoded, S2VNet

STORE = torch.float16
"""Carried masks pass through this type between slices, so that resuming a sweep from storage changes nothing."""
CONVERGED = 2.0**-6
"""Beyond its prompts, a prompted sweep ends where no carried mask differs from the automatic one by more than this."""

_Key = bytes
"""Digest of what a decoded slice depends on: how the state before came about, and the prompts."""

Progress = Callable[[int, int], None]
"""Called with (done, total) units of work."""


@dataclass(frozen=True)
class Sweep:
    """One direction's pass over all slices."""

    masks: Tensor
    """(D, K, h, w) soft masks, STORE type."""
    leaving: tuple[State, ...]
    """State leaving each slice, without its masks (they are `masks[d]`)."""
    changed: range
    """Slices that differ from the automatic sweep, as decoded in this one."""


class VolumeEngine:
    """Cached features of a volume and its automatic sweeps."""

    def __init__(self, model: S2VNet, slices: Tensor, batch: int = 8, progress: Progress | None = None) -> None:
        """Encode all slices and run both automatic sweeps.

        Args:
            model: in eval mode.
            slices: (D, C, H, W), H and W multiples of `model.stride`.
            batch: slices encoded at once.
            progress: told of encoded and decoded slices.
        """
        self.model = model
        self.depth = len(slices)
        self._progress = progress or (lambda done, total: None)
        with torch.inference_mode():
            parts = []
            for start in range(0, self.depth, batch):
                parts.append(model.encode(slices[start : start + batch]))
                self._progress(min(start + batch, self.depth), 3 * self.depth)
            self.features = Features.cat(parts)
            self._device = self.features.mask.device
            self._done = self.depth
            self._known: dict[_Key, Decoded] = {}
            self.automatic = (self._automatic_sweep(1), self._automatic_sweep(-1))

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the mask grid."""
        height, width = self.features.mask.shape[-2:]
        return height, width

    def prompted(self, prompts: Mapping[int, Tensor]) -> tuple[Sweep, Sweep]:
        """Both sweeps under prompt maps (K, 3, h, w) by slice; the automatic ones when there are none."""
        if not prompts:
            return self.automatic
        signatures = {d: _digest(maps.cpu().numpy().tobytes()) for d, maps in prompts.items()}
        known, self._known = self._known, {}
        with torch.inference_mode():
            rising, falling = (
                self._prompted_sweep(base, direction, prompts, signatures, known)
                for base, direction in zip(self.automatic, (1, -1), strict=True)
            )
        return rising, falling

    def _automatic_sweep(self, direction: int) -> Sweep:
        """All slices in rising (+1) or falling (-1) order, without prompts."""
        order = range(self.depth)[::direction]
        masks = torch.empty((self.depth, self.model.config.num_classes, *self.size), dtype=STORE, device=self._device)
        leaving: list[State | None] = [None] * self.depth
        state = self.model.initial_state(self.features.at(slice(1)), self._direction(direction))
        for d, decoded in zip(order, propagate(self._decode, self._steps(order, {}), state), strict=True):
            masks[d], leaving[d] = decoded.logits[0], self._without_masks(decoded.state)
            self._done += 1
            self._progress(self._done, 3 * self.depth)
        return Sweep(masks, cast(tuple[State, ...], tuple(leaving)), range(0))

    def _prompted_sweep(
        self,
        base: Sweep,
        direction: int,
        prompts: Mapping[int, Tensor],
        signatures: Mapping[int, bytes],
        known: Mapping[_Key, Decoded],
    ) -> Sweep:
        """A base sweep, decoded anew from each prompted slice on until it agrees with the base again.

        A slice whose entering state and prompts are those of the round before is taken over from there: this saves
        time and changes nothing.
        """
        order = range(self.depth)[::direction]
        masks, leaving = base.masks.clone(), list(base.leaving)
        changed: list[int] = []
        position = 0
        while position < self.depth:
            if order[position] not in prompts:
                position += 1
                continue
            key = _digest(f"{direction} {position}".encode())
            upcoming = iter(order[position:])

            def decode(features: Features, state: State, maps: Tensor) -> Decoded:
                nonlocal key
                key = _digest(key + signatures.get(next(upcoming), b""))  # noqa: B023
                decoded = known.get(key) or self._decode(features, state, maps)
                self._known[key] = decoded
                return decoded

            steps = self._steps(order[position:], prompts)
            for decoded in propagate(decode, steps, self._entering(order, position, direction, base)):
                d = order[position]
                masks[d], leaving[d] = decoded.logits[0], self._without_masks(decoded.state)
                changed.append(d)
                position += 1
                prompted_next = position < self.depth and order[position] in prompts
                if not prompted_next and (masks[d] - base.masks[d]).abs().max() <= CONVERGED:
                    break
        return Sweep(masks, tuple(leaving), range(min(changed), max(changed) + 1))

    def _entering(self, order: range, position: int, direction: int, base: Sweep) -> State:
        if position == 0:
            return self.model.initial_state(self.features.at(slice(1)), self._direction(direction))
        before = order[position - 1]
        state = base.leaving[before]
        carried = self.model.config.propagation != "none"
        masks = base.masks[before][None].float()
        return state._replace(masks=masks if carried else torch.zeros_like(masks))

    def _steps(self, order: range, prompts: Mapping[int, Tensor]) -> Iterator[tuple[Features, Tensor]]:
        none = torch.zeros(self.model.config.num_classes, PROMPT_MAPS, *self.size, device=self._device)
        return ((self.features.at(slice(d, d + 1)), prompts.get(d, none)[None]) for d in order)

    def _decode(self, features: Features, state: State, maps: Tensor) -> Decoded:
        """Decode one slice; probabilities in place of logits, rounded to STORE, also in the state."""
        decoded = self.model.decode(features, state, maps)
        stored = decoded.logits.softmax(1).to(STORE)
        carried = self.model.config.propagation != "none"
        masks = stored.float() if carried else decoded.state.masks
        return decoded._replace(logits=stored, layer_logits=(), state=decoded.state._replace(masks=masks))

    def _direction(self, direction: int) -> Tensor:
        return torch.tensor([float(direction)], device=self._device)

    @staticmethod
    def _without_masks(state: State) -> State:
        return state._replace(masks=torch.empty(0))


def _digest(content: bytes) -> _Key:
    return hashlib.blake2b(content, digest_size=16).digest()


def combine(sweeps: tuple[Sweep, Sweep], start: int, stop: int) -> Tensor:
    """Class probabilities (stop - start, K, h, w) of some slices: the mean of both directions."""
    return (sweeps[0].masks[start:stop].float() + sweeps[1].masks[start:stop].float()) / 2
