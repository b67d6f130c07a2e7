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
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from s2vnet.model.aggregation import PropagationState
from s2vnet.model.clustering import argmax_class
from s2vnet.model.pixel_decoder import Features
from s2vnet.model.prompt_encoder import PromptMaps
from s2vnet.model.propagation import propagate
from s2vnet.model.s2vnet import DecoderOutput, Network, SliceInput

STORAGE_DTYPE = torch.float16
"""Carried maps pass through this type between slices, so that resuming a sweep from storage changes nothing."""

ProgressCallback = Callable[[int, int], None]
"""Called with (done, total) units of work."""

_Key = bytes
"""Digest of what a decoded slice depends on: how the state before came about, and the prompts."""


class DecodedSlice(NamedTuple):
    """What a sweep keeps of a slice."""

    masks: Tensor
    """(1, K, h, w) class probabilities, STORAGE_DTYPE type."""
    leaving: PropagationState
    """State leaving the slice; without its masks, which are those above."""
    agrees: bool
    """Whether every cell has the class that it has in the automatic sweep."""


@dataclass
class Sweep:
    """One direction's pass over all slices."""

    slices: dict[int, DecodedSlice] = field(default_factory=dict)
    """Slices as decoded in this sweep."""
    base: Sweep | None = None
    """The automatic sweep that a prompted one departs from and returns to."""

    def __getitem__(self, d: int) -> DecodedSlice:
        return self.slices[d] if d in self.slices or self.base is None else self.base[d]

    def agrees(self, d: int, masks: Tensor) -> bool:
        """Whether the class that every cell has here is a most probable one of other probabilities (1, K, h, w)."""
        return torch.equal(masks.gather(1, argmax_class(self[d].masks)[:, None]), masks.amax(1, keepdim=True))

    @property
    def changed(self) -> range:
        """Slices from the first to the last that may differ from the automatic sweep."""
        return range(min(self.slices), max(self.slices) + 1) if self.base and self.slices else range(0)


_NONE = torch.empty(0)
_CHANNELS_LAST = " channels last"
_SWEEPS = ("rising", "falling")
_LEAVING = tuple(part for part in PropagationState._fields if part != "masks")

PreviewCallback = Callable[[range, Tensor], None]
"""Told of slices, and their class probabilities (n, K, h, w) as each gives them by itself, before it is swept."""
SweepCallback = Callable[[tuple[Sweep, Sweep], range], None]
"""Told after each step of both sweeps which slices both have passed, a range that only grows; may raise to end them."""


BATCH_SIZE = 8
"""Slices encoded at once."""


class PreviewBatch(NamedTuple):
    """Slices that were encoded, and decoded each as if there were no other."""

    places: range
    features: Sequence[Features]
    """Of each."""
    decoded: DecoderOutput
    """Of all."""

    @classmethod
    def compute(cls, model: Network, places: range, slices: Tensor) -> PreviewBatch:
        """What a network makes of slices (n, C, H, W) that have these places in their volume."""
        features = model.encode_slices(slices)
        start = model.initial_state(features[0])
        rows = [SliceInput(each, start, None) for each in features]
        return cls(places, features, DecoderOutput.concatenate(model.decode_slices(rows)))


class EncodedVolume:
    """Cached features of a volume and its automatic sweeps."""

    def __init__(
        self,
        model: Network,
        features: Features,
        automatic: tuple[Sweep, Sweep] | None = None,
        watch: SweepCallback | None = None,
    ) -> None:
        """Args: the network in eval mode, features of all slices, the automatic sweeps where known, and a watch."""
        self.model = model
        self.features = features
        self.depth = len(features.mask)
        self._device = features.mask.device
        self._known: dict[_Key, DecodedSlice] = {}
        self.automatic = automatic or self._run_sweeps({}, None, watch)

    @classmethod
    def encode(
        cls,
        model: Network,
        slices: Tensor,
        batch: int = BATCH_SIZE,
        progress: ProgressCallback | None = None,
        watch: SweepCallback | None = None,
        preview: PreviewCallback | None = None,
        first: PreviewBatch | None = None,
    ) -> EncodedVolume:
        """Encode all slices, some of the whole volume at a time, and run both automatic sweeps.

        Args:
            model: in eval mode.
            slices: (D, C, H, W), H and W multiples of `model.stride`.
            batch: slices encoded at once.
            progress: told of encoded and decoded slices.
            watch: told of slices that both automatic sweeps have passed.
            preview: told of slices as they are encoded; costs a decoder pass more for each.
            first: what the network has made of the places of :func:`first_batch_indices`, if it has seen them.
        """
        depth = len(slices)
        progress = progress or (lambda done, total: None)
        with torch.inference_mode():

            def parts() -> Iterator[tuple[range, Features]]:
                done = 0
                for places in interleaved_batches(depth, batch):
                    part = slices[places.start : places.stop : places.step]
                    seen = first if first is not None and first.places == places else None
                    if seen is None and preview is not None:
                        seen = PreviewBatch.compute(model, places, part)
                    rows = model.encode_slices(part) if seen is None else seen.features
                    yield from ((range(d, d + 1), each) for d, each in zip(places, rows, strict=True))
                    if seen is not None and preview is not None:
                        preview(places, seen.decoded.logits.softmax(1))
                    done += len(places)
                    progress(done, 2 * depth)

            features = Features.assemble(parts(), depth)
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

    def state_dict(self) -> dict[str, Tensor]:
        """All that is cached, as named tensors; :meth:`from_state_dict` makes the same engine of them."""
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
    def from_state_dict(cls, model: Network, packed: Mapping[str, Tensor]) -> EncodedVolume:
        """The engine that was packed, for the same network."""
        tensors = []
        for n in range(sum(name.startswith("features.") for name in packed)):
            last = packed.get(f"features.{n}{_CHANNELS_LAST}")
            tensors.append(packed[f"features.{n}"] if last is None else last.permute(0, 3, 1, 2))
        features = Features.from_tensors(tensors)
        sweeps = []
        for name in _SWEEPS:
            parts = {part: packed[f"{name}.{part}"].split(1) for part in _LEAVING}
            masks = packed[f"{name}.masks"].split(1)
            leaving = [PropagationState(masks=_NONE, **{p: parts[p][d] for p in _LEAVING}) for d in range(len(masks))]
            sweeps.append(Sweep({d: DecodedSlice(masks[d], leaving[d], True) for d in range(len(masks))}))
        return cls(model, features, (sweeps[0], sweeps[1]))

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the mask grid."""
        height, width = self.features.mask.shape[-2:]
        return height, width

    def sweep(self, prompts: Mapping[int, Tensor], watch: SweepCallback | None = None) -> tuple[Sweep, Sweep]:
        """Both sweeps under prompt maps (K, 4, h, w) by slice; the automatic ones when there are none.

        They are the automatic sweeps, decoded anew from each prompted slice on until they agree with them again.
        """
        return self._run_sweeps(prompts, self.automatic, watch) if prompts else self.automatic

    def _run_sweeps(
        self, prompts: Mapping[int, Tensor], base: tuple[Sweep, Sweep] | None, watch: SweepCallback | None
    ) -> tuple[Sweep, Sweep]:
        """Rising and falling sweep, a slice of each at a time.

        What one gives does not depend, not by a rounding, on what the other one needs (:meth:`Network.decode_slices`).
        What an earlier round decoded from the same states and prompts is taken from there; this saves time and changes
        nothing.
        """
        with torch.inference_mode():
            signatures = {d: _digest(_content(prompts, d)) for d in prompts}
            orders = (range(self.depth), range(self.depth)[::-1])
            known = self._known
            kept: dict[_Key, DecodedSlice] = {}
            cursors = tuple(
                _SweepCursor(
                    order, signatures, base and base[n], self.model, self._initial_state(order.step), known, kept
                )
                for n, order in enumerate(orders)
            )
            sweeps = cursors[0].sweep, cursors[1].sweep

            def steps() -> Iterator[tuple[list[Features | None], list[Tensor | None]]]:
                while any(cursor.going for cursor in cursors):
                    slices = [cursor.slice if cursor.going else None for cursor in cursors]
                    yield (
                        [None if d is None else self.features.select(slice(d, d + 1)) for d in slices],
                        [None if d is None else self._maps(prompts.get(d)) for d in slices],
                    )

            def decode(
                features: list[Features | None], states: list[PropagationState], maps: list[Tensor | None]
            ) -> DecodedStep:
                entering = [c.entering or state for c, state in zip(cursors, states, strict=True)]
                return decode_step(self.model, features, entering, maps)

            try:
                for step in propagate(decode, steps(), [cursor.entering for cursor in cursors]):
                    for cursor, masks, state in zip(cursors, step.masks, step.state, strict=True):
                        if masks is not None:
                            cursor.take(masks, state._replace(masks=_NONE))
                    rising, falling = (cursor.decided for cursor in cursors)
                    if watch is not None:
                        watch(sweeps, range(self.depth - falling, max(rising, self.depth - falling)))
            except BaseException:
                self._known = known | kept
                raise
            self._known = kept if base else {}
        return sweeps

    def preview_slice(self, d: int, maps: Tensor, sweeps: tuple[Sweep, Sweep] | None = None) -> Tensor:
        """Class probabilities (1, K, h, w) of one slice under prompt maps, entered as in sweeps without them.

        In one step near to what prompted sweeps give, which come by all slices that the prompts touch before.
        """
        orders = (range(self.depth), range(self.depth)[::-1])
        with torch.inference_mode():
            entering = []
            for order, sweep in zip(orders, sweeps or self.automatic, strict=True):
                position = order.index(d)
                before = sweep[order[position - 1]] if position else None
                start = self._initial_state(order.step)
                entering.append(_carried(self.model, before.leaving, before.masks) if before else start)
            here = self.features.select(slice(d, d + 1))
            step = decode_step(self.model, [here, here], entering, [self._maps(maps)] * 2)
        return average_directions(step.masks)

    def _initial_state(self, direction: int) -> PropagationState:
        """State in which a sweep begins, +1 rising or -1 falling."""
        return self.model.initial_state(
            self.features.select(slice(0, 1)), torch.tensor([float(direction)], device=self._device)
        )

    def _maps(self, maps: Tensor | None) -> Tensor | None:
        """Prompt maps of a slice as a batch of one."""
        return None if maps is None else maps[None].to(self._device)


class _SweepCursor:
    """One direction's way through a volume: which slice is next, and what it is entered with."""

    def __init__(
        self,
        order: range,
        signatures: Mapping[int, bytes],
        base: Sweep | None,
        model: Network,
        first: PropagationState,
        known: Mapping[_Key, DecodedSlice],
        kept: dict[_Key, DecodedSlice],
    ) -> None:
        self.sweep = Sweep({}, base)
        self.going = True
        """Whether there is a slice to decode."""
        self.entering: PropagationState | None = first
        """State that the slice is entered with when it does not follow on the one decoded before."""
        self._key = b""  # equal keys mean equal entering states and equal prompts
        self._order, self._signatures, self._base, self._model = order, signatures, base, model
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

    def take(self, masks: Tensor, leaving: PropagationState) -> None:
        """Keep the slice as decoded, and go on to the next that has to be."""
        if self.going:
            agrees = self._base is None or self._base.agrees(self.slice, masks)
            self._keep(DecodedSlice(masks, leaving, agrees))
            self.entering = None
            self._advance()

    def _advance(self) -> None:
        """To the next slice that needs decoding: every slice, or those that may differ from the base sweep."""
        self._next()
        while self.going and (passed := self._known.get(self._key)) is not None:
            self._keep(passed)
            self.entering = _carried(self._model, passed.leaving, passed.masks)
            self._next()

    def _keep(self, passed: DecodedSlice) -> None:
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

    def _departing(self) -> PropagationState:
        """State in which the base sweep enters the slice."""
        if self._base is None or self._position == 0:
            return self._first
        before = self._base[self._order[self._position - 1]]
        return _carried(self._model, before.leaving, before.masks)


def first_batch_indices(depth: int) -> range:
    """Those of a volume's slices that are encoded first: some from end to end, the middle one among them."""
    return next(interleaved_batches(depth, BATCH_SIZE))


def interleaved_batches(depth: int, batch: int) -> Iterator[range]:
    """All slices in batches that each reach from end to end; the first one has the middle slice in it."""
    step = -(-depth // batch)
    for n in range(step):
        yield range((depth // 2 + n) % step, depth, step)


class DecodedStep(NamedTuple):
    """One slice of each of some sequences, decoded."""

    masks: list[Tensor | None]
    """(1, K, h, w) class probabilities, STORAGE_DTYPE type; None for a sequence that has no slice here."""
    state: list[PropagationState]
    """What each sequence's next slice receives."""


def decode_step(
    model: Network,
    features: Sequence[Features | None],
    states: Sequence[PropagationState],
    maps: Sequence[Tensor | None],
) -> DecodedStep:
    """Decode a slice of each sequence that has one here; probabilities are rounded to STORAGE_DTYPE."""
    given = zip(features, states, maps, strict=True)
    rows = {n: SliceInput(slices, state, shown) for n, (slices, state, shown) in enumerate(given) if slices is not None}
    step = DecodedStep([None] * len(states), list(states))
    for n, decoded in zip(rows, model.decode_slices(list(rows.values())), strict=True):
        carried = model.config.propagation != "none"
        stored = (decoded.state.masks if carried else decoded.logits.softmax(1)).to(STORAGE_DTYPE)
        step.masks[n], step.state[n] = stored, _carried(model, decoded.state, stored)
    return step


def _carried(model: Network, state: PropagationState, masks: Tensor) -> PropagationState:
    """State whose maps are the stored ones; none are carried without propagation."""
    carried = masks.float() if model.config.propagation != "none" else torch.zeros_like(masks).float()
    return state._replace(masks=carried)


def _tensors(kept: Iterable[DecodedSlice]) -> Iterator[Tensor]:
    for passed in kept:
        yield passed.masks
        yield from passed.leaving


def _stored(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors; those that lie in the same memory, or only in a part of it, are counted as all of it, once."""
    storages = (tensor.untyped_storage() for tensor in tensors)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _content(prompts: Mapping[int, Tensor], d: int) -> bytes:
    """What a slice's prompt maps are told apart by."""
    return prompts.signature(d) if isinstance(prompts, PromptMaps) else prompts[d].cpu().numpy().tobytes()


def _digest(content: bytes) -> _Key:
    return hashlib.blake2b(content, digest_size=16).digest()


def average_sweeps(sweeps: tuple[Sweep, Sweep], start: int, stop: int) -> Tensor:
    """Class probabilities (stop - start, K, h, w) of some slices: the mean of both directions."""
    return torch.cat([average_directions([sweep[d].masks for sweep in sweeps]) for d in range(start, stop)])


def average_directions(masks: Sequence[Tensor | None]) -> Tensor:
    """Class probabilities (1, K, h, w) of a slice: the mean of both directions, given in STORAGE_DTYPE."""
    rising, falling = masks
    assert rising is not None
    assert falling is not None
    return (rising.float() + falling.float()) / 2
