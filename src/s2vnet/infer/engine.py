"""One encoded volume: slices encoded once, then swept in both directions, with or without prompts.

The result for a set of prompts is a pure function of the image and those prompts: prompted sweeps start from the
automatic ones, never from an earlier prompted result. Automatic mode is the same call without prompts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from s2vnet.model.aggregation import State
from s2vnet.model.clustering import strongest
from s2vnet.model.pixel_decoder import Features
from s2vnet.model.propagation import propagate
from s2vnet.model.s2vnet import PROMPT_MAPS, Decoded, S2VNet

STORE = torch.float16
"""Carried maps pass through this type between slices, so that resuming a sweep from storage changes nothing."""

Progress = Callable[[int, int], None]
"""Called with (done, total) units of work."""

_Key = bytes
"""Digest of what a decoded slice depends on: how the state before came about, and the prompts."""


class Passed(NamedTuple):
    """What a sweep keeps of a slice."""

    masks: Tensor
    """(1, K, h, w) class probabilities, STORE type."""
    leaving: State
    """State leaving the slice; without its masks, which are those above."""


@dataclass
class Sweep:
    """One direction's pass over all slices."""

    slices: dict[int, Passed] = field(default_factory=dict)
    """Slices as decoded in this sweep."""
    base: Sweep | None = None
    """The automatic sweep that a prompted one departs from and returns to."""

    def __getitem__(self, d: int) -> Passed:
        return self.slices[d] if d in self.slices or self.base is None else self.base[d]

    @property
    def changed(self) -> range:
        """Slices from the first to the last that may differ from the automatic sweep."""
        return range(min(self.slices), max(self.slices) + 1) if self.base and self.slices else range(0)


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
        progress = progress or (lambda done, total: None)
        with torch.inference_mode():

            def parts() -> Iterator[Features]:
                for start in range(0, self.depth, batch):
                    yield model.encode(slices[start : start + batch])
                    progress(min(start + batch, self.depth), 2 * self.depth)

            self.features = Features.collect(parts(), self.depth)
        self._device = self.features.mask.device
        self._known: dict[_Key, Passed] = {}
        self.automatic = self._sweep({}, None, lambda done: progress(self.depth + done, 2 * self.depth))

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the mask grid."""
        height, width = self.features.mask.shape[-2:]
        return height, width

    def prompted(self, prompts: Mapping[int, Tensor]) -> tuple[Sweep, Sweep]:
        """Both sweeps under prompt maps (K, 4, h, w) by slice; the automatic ones when there are none.

        They are the automatic sweeps, decoded anew from each prompted slice on until they agree with them again.
        """
        return self._sweep(prompts, self.automatic) if prompts else self.automatic

    def _sweep(
        self,
        prompts: Mapping[int, Tensor],
        base: tuple[Sweep, Sweep] | None,
        told: Callable[[int], None] = lambda done: None,
    ) -> tuple[Sweep, Sweep]:
        """Rising and falling sweep, a slice of each at a time.

        Both go through the decoder together, rising first and falling second, even where one of them has nothing left
        to do: so what one gives cannot depend, not by a rounding, on what the other one needs.
        """
        with torch.inference_mode():
            start = self.model.initial_state(self.features.at([0, 0]), torch.tensor([1.0, -1.0], device=self._device))
            signatures = {d: _digest(maps.cpu().numpy().tobytes()) for d, maps in prompts.items()}
            orders = (range(self.depth), range(self.depth)[::-1])
            courses = [
                _Course(order, signatures, base and base[n], self._carried, _rows(start, n))
                for n, order in enumerate(orders)
            ]
            known, self._known = self._known, {}
            nothing = torch.zeros(self.model.config.num_classes, PROMPT_MAPS, *self.size, device=self._device)

            def steps() -> Iterator[tuple[Features, Tensor]]:
                while True:
                    for course in courses:
                        course.advance()
                    if not any(course.going for course in courses):
                        return
                    maps = torch.stack([prompts.get(course.slice, nothing) for course in courses])
                    yield self.features.at([course.slice for course in courses]), maps

            def decode(features: Features, state: State, maps: Tensor) -> Decoded:
                rows = [_rows(state, n) if c.anew is None else c.anew for n, c in enumerate(courses)]
                decoded = _remembered(courses, known, rows, self._carried)
                return decoded or self._decode(features, _join(rows), maps)

            for number, decoded in enumerate(propagate(decode, steps(), start)):
                for n, course in enumerate(courses):
                    if course.going:
                        leaving = _rows(decoded.state, n)._replace(masks=_NONE)
                        passed = Passed(decoded.logits[n : n + 1], leaving)
                        course.take(passed)
                        if base:
                            self._known[course.key] = passed
                told(number + 1)
        return courses[0].sweep, courses[1].sweep

    def _decode(self, features: Features, state: State, maps: Tensor) -> Decoded:
        """Decode slices; probabilities in place of logits, rounded to STORE, also in the state."""
        decoded = self.model.decode(features, state, maps)
        carried = self.model.config.propagation != "none"
        stored = (decoded.state.masks if carried else decoded.logits.softmax(1)).to(STORE)
        return decoded._replace(logits=stored, state=self._carried(decoded.state, stored))

    def _carried(self, state: State, masks: Tensor) -> State:
        """State whose maps are the stored ones; none are carried without propagation."""
        carried = masks.float() if self.model.config.propagation != "none" else torch.zeros_like(masks).float()
        return state._replace(masks=carried)


class _Course:
    """One direction's way through a volume: which slice is next, and what it is entered with."""

    def __init__(
        self,
        order: range,
        signatures: Mapping[int, bytes],
        base: Sweep | None,
        carried: Callable[[State, Tensor], State],
        first: State,
    ) -> None:
        self.sweep = Sweep({}, base)
        self.going = True
        """Whether there is a slice to decode."""
        self.anew: State | None = first
        """State that the slice is entered with when it does not follow on the one decoded before."""
        self.key = b""
        """Of the slice: equal keys mean equal entering states and equal prompts."""
        self._order, self._signatures, self._base, self._carried = order, signatures, base, carried
        self._first = first
        self._position = -1
        self._following = False

    @property
    def slice(self) -> int:
        """The slice to decode (any slice when there is none)."""
        return self._order[min(self._position, len(self._order) - 1)]

    def advance(self) -> None:
        """Go to the next slice that needs decoding: every slice, or those that may differ from the base sweep."""
        self._position += 1
        self.anew = None
        if not self._following and self.going:
            while self._base and self._position < len(self._order) and self.slice not in self._signatures:
                self._position += 1
            self.key = _digest(f"{self._order.step} {self._position}".encode())
            self.anew = self._entering()
        self.going = self._position < len(self._order)
        if self.going:
            self.key = _digest(self.key + self._signatures.get(self.slice, b""))

    def take(self, passed: Passed) -> None:
        """Keep the slice as decoded; go on with the next unless the sweep has come back to its base."""
        self.sweep.slices[self.slice] = passed
        following = self._order[self._position + 1 : self._position + 2]
        self._following = (
            self._base is None
            or any(d in self._signatures for d in following)
            or not torch.equal(strongest(passed.masks), strongest(self._base[self.slice].masks))
        )

    def _entering(self) -> State:
        if self._base is None or self._position == 0:
            return self._first
        before = self._base[self._order[self._position - 1]]
        return self._carried(before.leaving, before.masks)


_NONE = torch.empty(0)


def _remembered(
    courses: Sequence[_Course],
    known: Mapping[_Key, Passed],
    rows: Sequence[State],
    carried: Callable[[State, Tensor], State],
) -> Decoded | None:
    """What an earlier round decoded from the same states and prompts; this saves time and changes nothing."""
    if not all(c.key in known for c in courses if c.going):
        return None
    found = [known[c.key] if c.going else None for c in courses]
    states = [row if f is None else carried(f.leaving, f.masks) for f, row in zip(found, rows, strict=True)]
    masks = torch.cat([row.masks.to(STORE) if f is None else f.masks for f, row in zip(found, rows, strict=True)])
    return Decoded(masks, _NONE, (), _join(states))


def _rows(state: State, n: int) -> State:
    return State(*(part[n : n + 1] for part in state))


def _join(rows: Sequence[State]) -> State:
    return State(*(torch.cat(parts) for parts in zip(*rows, strict=True)))


def _digest(content: bytes) -> _Key:
    return hashlib.blake2b(content, digest_size=16).digest()


def combine(sweeps: tuple[Sweep, Sweep], start: int, stop: int) -> Tensor:
    """Class probabilities (stop - start, K, h, w) of some slices: the mean of both directions."""
    rising, falling = (torch.cat([sweep[d].masks for d in range(start, stop)]) for sweep in sweeps)
    return (rising.float() + falling.float()) / 2
