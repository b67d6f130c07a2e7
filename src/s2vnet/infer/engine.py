"""One encoded volume: slices encoded once, then swept in both directions, with or without prompts.

The result for a set of prompts is a pure function of the image and those prompts: prompted sweeps start from the
automatic ones, never from an earlier prompted result. Automatic mode is the same call without prompts.

A sweep can be watched, slice by slice, and ended early by whoever watches; what it has decoded is not lost by that.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NamedTuple

import torch
from torch import Tensor

from s2vnet.model.aggregation import State
from s2vnet.model.clustering import strongest
from s2vnet.model.pixel_decoder import Features
from s2vnet.model.prompts import Drawing
from s2vnet.model.propagation import propagate
from s2vnet.model.s2vnet import Decoded, Network

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
    agrees: bool
    """Whether every cell has the class that it has in the automatic sweep."""


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


_NONE = torch.empty(0)
_CHANNELS_LAST = " channels last"
_SWEEPS = ("rising", "falling")
_LEAVING = tuple(part for part in State._fields if part != "masks")

Preview = Callable[[range, Tensor], None]
"""Told of slices, and their class probabilities (n, K, h, w) as each gives them by itself, before it is swept."""
Watch = Callable[[tuple[Sweep, Sweep], range], None]
"""Told after each step of both sweeps which slices both have passed, a range that only grows; may raise to end them."""


BATCH = 8
"""Slices encoded at once."""


class Seen(NamedTuple):
    """Slices that were encoded, and decoded each as if there were no other."""

    places: range
    features: Features
    decoded: Decoded

    @classmethod
    def by(cls, model: Network, places: range, slices: Tensor) -> Seen:
        """What a network makes of slices (n, C, H, W) that have these places in their volume."""
        features = model.encode(slices)
        return cls(places, features, model.decode(features, model.initial_state(features), None))


class VolumeEngine:
    """Cached features of a volume and its automatic sweeps."""

    def __init__(
        self,
        model: Network,
        features: Features,
        automatic: tuple[Sweep, Sweep] | None = None,
        watch: Watch | None = None,
    ) -> None:
        """Args: the network in eval mode, features of all slices, the automatic sweeps where known, and a watch."""
        self.model = model
        self.features = features
        self.depth = len(features.mask)
        self._device = features.mask.device
        self._known: dict[_Key, Passed] = {}
        self.automatic = automatic or self._sweep({}, None, watch)

    @classmethod
    def encode(
        cls,
        model: Network,
        slices: Tensor,
        batch: int = BATCH,
        progress: Progress | None = None,
        watch: Watch | None = None,
        preview: Preview | None = None,
        first: Seen | None = None,
    ) -> VolumeEngine:
        """Encode all slices, some of the whole volume at a time, and run both automatic sweeps.

        Args:
            model: in eval mode.
            slices: (D, C, H, W), H and W multiples of `model.stride`.
            batch: slices encoded at once.
            progress: told of encoded and decoded slices.
            watch: told of slices that both automatic sweeps have passed.
            preview: told of slices as they are encoded; costs a decoder pass more for each.
            first: what the network has made of the places of :func:`first_places`, if it has seen them.
        """
        depth = len(slices)
        progress = progress or (lambda done, total: None)
        with torch.inference_mode():

            def parts() -> Iterator[tuple[range, Features]]:
                done = 0
                for places in interlaced(depth, batch):
                    part = slices[places.start : places.stop : places.step]
                    seen = first if first is not None and first.places == places else None
                    if seen is None and preview is not None:
                        seen = Seen.by(model, places, part)
                    yield places, model.encode(part) if seen is None else seen.features
                    if seen is not None and preview is not None:
                        preview(places, seen.decoded.logits.softmax(1))
                    done += len(places)
                    progress(done, 2 * depth)

            features = Features.collect(parts(), depth)
        steps = itertools.count(depth + 1)

        def told(sweeps: tuple[Sweep, Sweep], passed: range) -> None:
            progress(next(steps), 2 * depth)
            if watch is not None:
                watch(sweeps, passed)

        return cls(model, features, watch=told)

    @cached_property
    def nbytes(self) -> int:
        """Memory in bytes of what is cached and never changes: features, and the automatic sweeps."""
        kept = itertools.chain.from_iterable(sweep.slices.values() for sweep in self.automatic)
        return _stored([*self.features.tensors, *_tensors(kept)])

    def prompted_nbytes(self, shown: tuple[Sweep, Sweep] | None = None) -> int:
        """Memory in bytes of what prompts have decoded: in the last round, and in the sweeps that are shown."""
        sweeps = [sweep for sweep in shown or () if sweep.base is not None]
        kept = itertools.chain(self._known.values(), *(sweep.slices.values() for sweep in sweeps))
        return _stored(_tensors(kept))

    def pack(self) -> dict[str, Tensor]:
        """All that is cached, as named tensors; :meth:`unpack` makes the same engine of them."""
        packed = {}
        for n, tensor in enumerate(self.features.tensors):
            if tensor.is_contiguous():
                packed[f"features.{n}"] = tensor
            else:  # kept as it lies in memory: another layout would be summed in another order
                packed[f"features.{n}{_CHANNELS_LAST}"] = tensor.permute(0, 2, 3, 1).contiguous()
        for name, sweep in zip(_SWEEPS, self.automatic, strict=True):
            passed = [sweep[d] for d in range(self.depth)]
            packed[f"{name}.masks"] = torch.cat([p.masks for p in passed])
            for part in _LEAVING:
                packed[f"{name}.{part}"] = torch.cat([getattr(p.leaving, part) for p in passed])
        return packed

    @classmethod
    def unpack(cls, model: Network, packed: Mapping[str, Tensor]) -> VolumeEngine:
        """The engine that was packed, for the same network."""
        tensors = []
        for n in range(sum(name.startswith("features.") for name in packed)):
            last = packed.get(f"features.{n}{_CHANNELS_LAST}")
            tensors.append(packed[f"features.{n}"] if last is None else last.permute(0, 3, 1, 2))
        features = Features.of(tensors)
        sweeps = []
        for name in _SWEEPS:
            parts = {part: packed[f"{name}.{part}"].split(1) for part in _LEAVING}
            masks = packed[f"{name}.masks"].split(1)
            leaving = [State(masks=_NONE, **{p: parts[p][d] for p in _LEAVING}) for d in range(len(masks))]
            sweeps.append(Sweep({d: Passed(masks[d], leaving[d], True) for d in range(len(masks))}))
        return cls(model, features, (sweeps[0], sweeps[1]))

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the mask grid."""
        height, width = self.features.mask.shape[-2:]
        return height, width

    def prompted(self, prompts: Mapping[int, Tensor], watch: Watch | None = None) -> tuple[Sweep, Sweep]:
        """Both sweeps under prompt maps (K, 4, h, w) by slice; the automatic ones when there are none.

        They are the automatic sweeps, decoded anew from each prompted slice on until they agree with them again.
        """
        return self._sweep(prompts, self.automatic, watch) if prompts else self.automatic

    def _sweep(
        self, prompts: Mapping[int, Tensor], base: tuple[Sweep, Sweep] | None, watch: Watch | None
    ) -> tuple[Sweep, Sweep]:
        """Rising and falling sweep, a slice of each at a time.

        Both go through the decoder together, rising first and falling second, even where one of them has nothing left
        to do: so what one gives cannot depend, not by a rounding, on what the other one needs. What an earlier round
        decoded from the same states and prompts is taken from there; this saves time and changes nothing.
        """
        carried = partial(_carried, self.model)
        with torch.inference_mode():
            start = self.model.initial_state(self.features.at([0, 0]), torch.tensor([1.0, -1.0], device=self._device))
            signatures = {d: _digest(_content(prompts, d)) for d in prompts}
            orders = (range(self.depth), range(self.depth)[::-1])
            known = self._known
            kept: dict[_Key, Passed] = {}
            courses = tuple(
                _Course(order, signatures, base and base[n], carried, rows_of(start, n), known, kept)
                for n, order in enumerate(orders)
            )
            sweeps = courses[0].sweep, courses[1].sweep

            def steps() -> Iterator[tuple[Features, Tensor | None]]:
                while any(course.going for course in courses):
                    maps = [prompts.get(course.slice) if course.going else None for course in courses]
                    yield self.features.at([course.slice for course in courses]), self._stack(maps)

            def decode(features: Features, state: State, maps: Tensor | None) -> Decoded:
                rows = [rows_of(state, n) if c.entering is None else c.entering for n, c in enumerate(courses)]
                return decode_stored(self.model, features, join(rows), maps)

            try:
                for decoded in propagate(decode, steps(), start):
                    for n, course in enumerate(courses):
                        course.take(decoded.logits[n : n + 1], rows_of(decoded.state, n)._replace(masks=_NONE))
                    rising, falling = (course.decided for course in courses)
                    if watch is not None:
                        watch(sweeps, range(self.depth - falling, max(rising, self.depth - falling)))
            except BaseException:
                self._known = known | kept
                raise
            self._known = kept if base else {}
        return sweeps

    def glance(self, d: int, maps: Tensor, sweeps: tuple[Sweep, Sweep] | None = None) -> Tensor:
        """Class probabilities (1, K, h, w) of one slice under prompt maps, entered as in sweeps without them.

        In one step near to what prompted sweeps give, which come by all slices that the prompts touch before.
        """
        orders = (range(self.depth), range(self.depth)[::-1])
        with torch.inference_mode():
            start = self.model.initial_state(self.features.at([0, 0]), torch.tensor([1.0, -1.0], device=self._device))
            entering = []
            for n, (order, sweep) in enumerate(zip(orders, sweeps or self.automatic, strict=True)):
                position = order.index(d)
                before = sweep[order[position - 1]] if position else None
                entering.append(_carried(self.model, before.leaving, before.masks) if before else rows_of(start, n))
            decoded = decode_stored(self.model, self.features.at([d, d]), join(entering), self._stack([maps, maps]))
        return decoded.logits.float().mean(0, keepdim=True)

    def _stack(self, maps: Sequence[Tensor | None]) -> Tensor | None:
        """Prompt maps of each row as a batch; None where there are none at all."""
        shown = next((one for one in maps if one is not None), None)
        if shown is None:
            return None
        return torch.stack([torch.zeros_like(shown) if one is None else one for one in maps]).to(self._device)


class _Course:
    """One direction's way through a volume: which slice is next, and what it is entered with."""

    def __init__(
        self,
        order: range,
        signatures: Mapping[int, bytes],
        base: Sweep | None,
        carried: Callable[[State, Tensor], State],
        first: State,
        known: Mapping[_Key, Passed],
        kept: dict[_Key, Passed],
    ) -> None:
        self.sweep = Sweep({}, base)
        self.going = True
        """Whether there is a slice to decode."""
        self.entering: State | None = first
        """State that the slice is entered with when it does not follow on the one decoded before."""
        self._key = b""  # equal keys mean equal entering states and equal prompts
        self._order, self._signatures, self._base, self._carried = order, signatures, base, carried
        self._first, self._known, self._kept = first, known, kept
        self._position = -1
        self._following = False
        self._advance()

    @property
    def slice(self) -> int:
        """The slice to decode (any slice when there is none)."""
        return self._order[min(self._position, len(self._order) - 1)]

    @property
    def decided(self) -> int:
        """Slices, from where the sweep starts, of which it is known what it gives."""
        return self._position

    def take(self, masks: Tensor, leaving: State) -> None:
        """Keep the slice as decoded, and go on to the next that has to be."""
        if self.going:
            agrees = self._base is None or torch.equal(strongest(masks), strongest(self._base[self.slice].masks))
            self._keep(Passed(masks, leaving, agrees))
            self.entering = None
            self._advance()

    def _advance(self) -> None:
        """To the next slice that needs decoding: every slice, or those that may differ from the base sweep."""
        self._next()
        while self.going and (passed := self._known.get(self._key)) is not None:
            self._keep(passed)
            self.entering = self._carried(passed.leaving, passed.masks)
            self._next()

    def _keep(self, passed: Passed) -> None:
        self.sweep.slices[self.slice] = self._kept[self._key] = passed
        following = self._order[self._position + 1 : self._position + 2]
        self._following = self._base is None or any(d in self._signatures for d in following) or not passed.agrees

    def _next(self) -> None:
        self._position += 1
        if not self._following:
            while self._base and self._position < len(self._order) and self.slice not in self._signatures:
                self._position += 1
            self._key = _digest(f"{self._order.step} {self._position}".encode())
            self.entering = self._departing()
        self.going = self._position < len(self._order)
        if self.going:
            self._key = _digest(self._key + self._signatures.get(self.slice, b""))

    def _departing(self) -> State:
        """State in which the base sweep enters the slice."""
        if self._base is None or self._position == 0:
            return self._first
        before = self._base[self._order[self._position - 1]]
        return self._carried(before.leaving, before.masks)


def first_places(depth: int) -> range:
    """Those of a volume's slices that are encoded first: some from end to end, the middle one among them."""
    return next(interlaced(depth, BATCH))


def interlaced(depth: int, batch: int) -> Iterator[range]:
    """All slices in batches that each reach from end to end; the first one has the middle slice in it."""
    step = -(-depth // batch)
    for n in range(step):
        yield range((depth // 2 + n) % step, depth, step)


def decode_stored(model: Network, features: Features, state: State, maps: Tensor | None) -> Decoded:
    """Decode slices; probabilities in place of logits, rounded to STORE, also in the state."""
    decoded = model.decode(features, state, maps)
    carried = model.config.propagation != "none"
    stored = (decoded.state.masks if carried else decoded.logits.softmax(1)).to(STORE)
    return decoded._replace(logits=stored, state=_carried(model, decoded.state, stored))


def _carried(model: Network, state: State, masks: Tensor) -> State:
    """State whose maps are the stored ones; none are carried without propagation."""
    carried = masks.float() if model.config.propagation != "none" else torch.zeros_like(masks).float()
    return state._replace(masks=carried)


def _tensors(kept: Iterable[Passed]) -> Iterator[Tensor]:
    for passed in kept:
        yield passed.masks
        yield from passed.leaving


def _stored(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors; those that lie in the same memory, or only in a part of it, are counted as all of it, once."""
    storages = (tensor.untyped_storage() for tensor in tensors)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def rows_of(state: State, n: int) -> State:
    """State of one of several sequences."""
    return State(*(part[n : n + 1] for part in state))


def join(rows: Sequence[State]) -> State:
    """State of several sequences."""
    return State(*(torch.cat(parts) for parts in zip(*rows, strict=True)))


def _content(prompts: Mapping[int, Tensor], d: int) -> bytes:
    """What a slice's prompt maps are told apart by."""
    return prompts.signature(d) if isinstance(prompts, Drawing) else prompts[d].cpu().numpy().tobytes()


def _digest(content: bytes) -> _Key:
    return hashlib.blake2b(content, digest_size=16).digest()


def combine(sweeps: tuple[Sweep, Sweep], start: int, stop: int) -> Tensor:
    """Class probabilities (stop - start, K, h, w) of some slices: the mean of both directions."""
    rising, falling = (torch.cat([sweep[d].masks for d in range(start, stop)]) for sweep in sweeps)
    return (rising.float() + falling.float()) / 2
