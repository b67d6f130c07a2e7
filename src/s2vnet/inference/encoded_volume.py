"""One encoded volume: features of all slices, and sweeps over them with or without prompts.

The result for a set of prompts is a pure function of the image and those prompts: prompted sweeps start from the
automatic ones, never from an earlier prompted result. Automatic mode is the same call without prompts.

A callback may end a sweep early by raising; the slices decoded until then stay cached.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from s2vnet.inference.sweep import (
    DecodedSlice,
    DecodedStep,
    Key,
    Sweep,
    SweepCallback,
    SweepCursor,
    decode_step,
    digest,
)
from s2vnet.model.aggregation import PropagationState
from s2vnet.model.interface import DecoderOutput, Network, SliceInput
from s2vnet.model.pixel_decoder import Features
from s2vnet.model.prompt_encoder import PromptMaps
from s2vnet.model.propagation import propagate

BATCH_SIZE = 8
"""Slices encoded at once."""

ProgressCallback = Callable[[int, int], None]
"""Called with (done, total) units of work."""
PreviewCallback = Callable[[range, Tensor], None]
"""Called with slice indices and class probabilities (n, K, h, w) of slices decoded independently of each other."""

_NO_MASKS = torch.empty(0)


class PreviewBatch(NamedTuple):
    """Batch of slices, encoded and decoded independently of each other."""

    indices: range
    features: Sequence[Features]
    """Features of each slice."""
    decoded: DecoderOutput
    """Outputs of all slices, in one batch."""

    @classmethod
    def compute(cls, model: Network, indices: range, slices: Tensor) -> PreviewBatch:
        """Encode and decode slices (n, C, H, W) that have these indices in their volume."""
        features = model.encode_slices(slices)
        initial = model.initial_state(features[0])
        inputs = [SliceInput(slice_features, initial, None) for slice_features in features]
        return cls(indices, features, DecoderOutput.concatenate(model.decode_slices(inputs)))


class EncodedVolume:
    """Cached features of a volume and its automatic sweeps."""

    def __init__(
        self,
        model: Network,
        features: Features,
        automatic: tuple[Sweep, Sweep] | None = None,
        on_sweep: SweepCallback | None = None,
    ) -> None:
        """Run the automatic sweeps unless they are given.

        Args:
            model: network in eval mode.
            features: features of all slices.
            automatic: rising and falling automatic sweep, if already computed.
            on_sweep: called after each step of the automatic sweeps.
        """
        self.model = model
        self.features = features
        self.depth = len(features.mask)
        self._device = features.mask.device
        self._decoded: dict[Key, DecodedSlice] = {}
        """Slices decoded for the last prompts, and in calls interrupted since then."""
        self.automatic = automatic or self._run_sweeps({}, None, on_sweep)

    @classmethod
    def encode(
        cls,
        model: Network,
        slices: Tensor,
        batch_size: int = BATCH_SIZE,
        progress: ProgressCallback | None = None,
        on_sweep: SweepCallback | None = None,
        on_preview: PreviewCallback | None = None,
        first_batch: PreviewBatch | None = None,
    ) -> EncodedVolume:
        """Encode all slices batch by batch, and run both automatic sweeps.

        Args:
            model: network in eval mode.
            slices: (D, C, H, W), H and W multiples of `model.stride`.
            batch_size: slices encoded at once.
            progress: called with slices encoded and decoded.
            on_sweep: called after each step of the automatic sweeps.
            on_preview: called with each batch once it is encoded; costs one more decoder pass per slice.
            first_batch: the batch of :func:`first_batch_indices`, if already computed.
        """
        depth = len(slices)
        progress = progress or (lambda done, total: None)
        with torch.inference_mode():

            def parts() -> Iterator[tuple[range, Features]]:
                done = 0
                for indices in interleaved_batches(depth, batch_size):
                    batch = slices[indices.start : indices.stop : indices.step]
                    preview = first_batch if first_batch is not None and first_batch.indices == indices else None
                    if preview is None and on_preview is not None:
                        preview = PreviewBatch.compute(model, indices, batch)
                    encoded = model.encode_slices(batch) if preview is None else preview.features
                    yield from ((range(d, d + 1), part) for d, part in zip(indices, encoded, strict=True))
                    if preview is not None and on_preview is not None:
                        on_preview(indices, preview.decoded.logits.softmax(1))
                    done += len(indices)
                    progress(done, 2 * depth)

            features = Features.assemble(parts(), depth)
        steps = itertools.count(depth + 1)

        def report(sweeps: tuple[Sweep, Sweep], passed: range) -> None:
            progress(next(steps), 2 * depth)
            if on_sweep is not None:
                on_sweep(sweeps, passed)

        return cls(model, features, on_sweep=report)

    @cached_property
    def nbytes(self) -> int:
        """Memory in bytes of features and automatic sweeps, which never change."""
        decoded = itertools.chain.from_iterable(sweep.slices.values() for sweep in self.automatic)
        return _storage_nbytes([*self.features.tensors, *_tensors(decoded)])

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the mask grid."""
        height, width = self.features.mask.shape[-2:]
        return height, width

    def sweep(self, prompts: Mapping[int, Tensor], on_sweep: SweepCallback | None = None) -> tuple[Sweep, Sweep]:
        """Rising and falling sweep under prompt maps (K, 4, h, w) by slice; the automatic ones without prompts."""
        return self._run_sweeps(prompts, self.automatic, on_sweep) if prompts else self.automatic

    def _run_sweeps(
        self, prompts: Mapping[int, Tensor], base: tuple[Sweep, Sweep] | None, on_sweep: SweepCallback | None
    ) -> tuple[Sweep, Sweep]:
        """Decode both sweeps, one slice of each per step.

        The sweeps are independent of each other, bit for bit (:meth:`Network.decode_slices`). Slices that the last call
        decoded from the same states and prompts are reused, without an effect on the result.
        """
        with torch.inference_mode():
            signatures = {d: digest(_prompt_content(prompts, d)) for d in prompts}
            previous = self._decoded
            cache: dict[Key, DecodedSlice] = {}
            cursors = tuple(
                SweepCursor(
                    order, signatures, base and base[n], self.model, self._initial_state(order.step), previous, cache
                )
                for n, order in enumerate(self._orders)
            )
            sweeps = cursors[0].sweep, cursors[1].sweep
            try:
                for step in propagate(
                    self._decoder(cursors), self._steps(cursors, prompts), [cursor.incoming for cursor in cursors]
                ):
                    for cursor, masks, state in zip(cursors, step.masks, step.state, strict=True):
                        if masks is not None:
                            cursor.record(masks, state._replace(masks=_NO_MASKS))
                    rising, falling = (cursor.num_final for cursor in cursors)
                    if on_sweep is not None:
                        on_sweep(sweeps, range(self.depth - falling, max(rising, self.depth - falling)))
            except BaseException:
                self._decoded = previous | cache
                raise
            self._decoded = cache if base else {}
        return sweeps

    @property
    def _orders(self) -> tuple[range, range]:
        """Slice indices in rising and in falling order."""
        return range(self.depth), range(self.depth)[::-1]

    def _steps(
        self, cursors: Sequence[SweepCursor], prompts: Mapping[int, Tensor]
    ) -> Iterator[tuple[list[Features | None], list[Tensor | None]]]:
        """Features and prompt maps of the slices at the cursors, until both sweeps are done."""
        while any(cursor.active for cursor in cursors):
            slices = [cursor.slice if cursor.active else None for cursor in cursors]
            yield (
                [None if d is None else self.features.select(slice(d, d + 1)) for d in slices],
                [None if d is None else self._batch_of_one(prompts.get(d)) for d in slices],
            )

    def _decoder(
        self, cursors: Sequence[SweepCursor]
    ) -> Callable[[list[Features | None], list[PropagationState], list[Tensor | None]], DecodedStep]:
        """Decoder of one step; where a cursor has moved past slices, its state replaces the propagated one."""

        def decode(
            features: list[Features | None], states: list[PropagationState], maps: list[Tensor | None]
        ) -> DecodedStep:
            incoming = [cursor.incoming or state for cursor, state in zip(cursors, states, strict=True)]
            return decode_step(self.model, features, incoming, maps)

        return decode

    def _initial_state(self, direction: int) -> PropagationState:
        """State that enters a sweep's first slice; direction is +1 for rising, -1 for falling."""
        return self.model.initial_state(
            self.features.select(slice(0, 1)), torch.tensor([float(direction)], device=self._device)
        )

    def _batch_of_one(self, maps: Tensor | None) -> Tensor | None:
        """Prompt maps (1, K, 4, h, w) of a slice, on the network's device."""
        return None if maps is None else maps[None].to(self._device)


def first_batch_indices(depth: int) -> range:
    """Indices of the slices that are encoded first; they span the volume and contain the middle slice."""
    return next(interleaved_batches(depth, BATCH_SIZE))


def interleaved_batches(depth: int, batch_size: int) -> Iterator[range]:
    """Batches of slice indices that each span the whole volume; the first one contains the middle slice."""
    step = -(-depth // batch_size)
    for n in range(step):
        yield range((depth // 2 + n) % step, depth, step)


def _tensors(decoded: Iterable[DecodedSlice]) -> Iterator[Tensor]:
    for each in decoded:
        yield each.masks
        yield from each.state


def _storage_nbytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the tensors' storages; one that several tensors share is counted once, and as a whole."""
    storages = (tensor.untyped_storage() for tensor in tensors)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _prompt_content(prompts: Mapping[int, Tensor], d: int) -> bytes:
    """Bytes that are equal for equal prompt maps of a slice."""
    return prompts.signature(d) if isinstance(prompts, PromptMaps) else prompts[d].cpu().numpy().tobytes()
