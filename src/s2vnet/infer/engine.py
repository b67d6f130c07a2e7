"""One encoded volume: slices encoded once, then swept in both directions, with or without prompts.

The result for a set of prompts is a pure function of the image and those prompts: prompted sweeps start from the
automatic ones, never from an earlier prompted result. Automatic mode is the same call without prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from s2vnet.model.aggregation import State
from s2vnet.model.pixel_decoder import Features
from s2vnet.model.propagation import propagate
from s2vnet.model.s2vnet import PROMPT_MAPS, S2VNet

STORE = torch.float16
"""Carried masks pass through this type between slices, so that resuming a sweep from storage changes nothing."""
CONVERGED = 2.0**-7
"""A prompted sweep ends where no carried mask differs from the automatic one by more than this."""

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
            self.features = Features(
                torch.cat([p.mask for p in parts]),
                tuple(torch.cat(x) for x in zip(*(p.pyramid for p in parts), strict=True)),
            )
            self.automatic = (self._sweep(1, {}, None), self._sweep(-1, {}, None))

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the mask grid."""
        height, width = self.features.mask.shape[-2:]
        return height, width

    def prompted(self, prompts: Mapping[int, Tensor]) -> tuple[Sweep, Sweep]:
        """Both sweeps under prompt maps (K, 3, h, w) by slice; the automatic ones when there are none."""
        if not prompts:
            return self.automatic
        with torch.inference_mode():
            return self._sweep(1, prompts, self.automatic[0]), self._sweep(-1, prompts, self.automatic[1])

    def _sweep(self, direction: int, prompts: Mapping[int, Tensor], base: Sweep | None) -> Sweep:
        """Slices in rising (+1) or falling (-1) order, from the first prompted one on when a base is given."""
        order = list(range(self.depth))[::direction]
        first = 0 if base is None else min(order.index(d) for d in prompts)
        last = max((order.index(d) for d in prompts), default=0)
        state = self._entering(order, first, direction, base)
        if base is None:
            shape = (self.depth, self.model.config.num_classes, *self.size)
            masks, leaving = torch.empty(shape, dtype=STORE), [None] * self.depth
        else:
            masks, leaving = base.masks.clone(), list(base.leaving)  # type: ignore[arg-type]
        stop = self.depth
        for n, masks_now, state_now in self._decode(order[first:], prompts, state):
            d = order[first + n]
            masks[d], leaving[d] = masks_now, state_now  # type: ignore[call-overload]
            if base is not None and first + n >= last and (masks_now - base.masks[d]).abs().max() <= CONVERGED:
                stop = first + n + 1
                break
        decoded = [order[i] for i in range(first, stop)]
        return Sweep(masks, tuple(leaving), range(min(decoded), max(decoded) + 1))  # type: ignore[arg-type]

    def _entering(self, order: list[int], first: int, direction: int, base: Sweep | None) -> State:
        if base is not None and first > 0:
            before = order[first - 1]
            return base.leaving[before]._replace(masks=base.masks[before][None].float())
        return self.model.initial_state(self.features.at(slice(1)), torch.tensor([float(direction)]))

    def _decode(
        self, order: list[int], prompts: Mapping[int, Tensor], state: State
    ) -> Iterator[tuple[int, Tensor, State]]:
        """Stored masks and mask-free leaving state of each slice in order."""
        none = torch.zeros(self.model.config.num_classes, PROMPT_MAPS, *self.size)

        def decode(features: Features, state: State, maps: Tensor):  # type: ignore[no-untyped-def]
            decoded = self.model.decode(features, state, maps)
            stored = decoded.logits.softmax(1).to(STORE)
            carried = decoded.state.masks.amax() > 0  # without propagation nothing is carried
            masks = stored.float() if carried else decoded.state.masks
            return decoded._replace(logits=stored, state=decoded.state._replace(masks=masks))

        sequence = ((self.features.at(slice(d, d + 1)), prompts.get(d, none)[None]) for d in order)
        empty = torch.empty(0)
        for n, decoded in enumerate(propagate(decode, sequence, state)):
            yield n, decoded.logits[0], decoded.state._replace(masks=empty)


def combine(sweeps: tuple[Sweep, Sweep], start: int, stop: int) -> Tensor:
    """Class probabilities (stop - start, K, h, w) of some slices: the mean of both directions."""
    return (sweeps[0].masks[start:stop].float() + sweeps[1].masks[start:stop].float()) / 2
