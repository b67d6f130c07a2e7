"""Automatic result and features of one volume, with all slices in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from s2vnet.inference.sweep import sweep_both_ways
from s2vnet.model.interface import DecoderOutput, Network, SliceInput
from s2vnet.model.pixel_decoder import Features

BATCH_SIZE = 8
"""Slices encoded at once."""

ProgressCallback = Callable[[int, int], None]
"""Called with (done, total) units of work."""
SlicesCallback = Callable[[Sequence[int], Tensor], None]
"""Called with slice indices and class probabilities (n, K, h, w); may raise to stop."""


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
        inputs = [SliceInput(slice_features, initial) for slice_features in features]
        return cls(indices, features, DecoderOutput.concatenate(model.decode_slices(inputs)))


class EncodedVolume(NamedTuple):
    """Features and automatic result of D slices."""

    features: Features
    """Features of all slices."""
    probabilities: Tensor
    """(D, K, h, w) class probabilities in float32: the mean of both sweeps."""

    @classmethod
    @torch.inference_mode()
    def encode(
        cls,
        model: Network,
        slices: Tensor,
        batch_size: int = BATCH_SIZE,
        progress: ProgressCallback | None = None,
        on_slices: SlicesCallback | None = None,
        on_preview: SlicesCallback | None = None,
        first_batch: PreviewBatch | None = None,
    ) -> EncodedVolume:
        """Encode all slices batch by batch, and decode them in both directions.

        Args:
            model: network in eval mode.
            slices: (D, C, H, W), H and W multiples of `model.stride`.
            batch_size: slices encoded at once.
            progress: called with slices encoded and decoded.
            on_slices: called with the result of each slice, once both sweeps have passed it.
            on_preview: called with each batch once it is encoded, whose slices are decoded independently of each other;
                costs one more decoder pass per slice.
            first_batch: the batch of :func:`first_batch_indices`, if already computed.
        """
        depth = len(slices)
        progress = progress or (lambda done, total: None)

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
        height, width = features.mask.shape[-2:]
        probabilities = features.mask.new_empty((depth, model.config.num_classes, height, width), dtype=torch.float32)
        steps = sweep_both_ways(model, lambda d: features.select(slice(d, d + 1)), depth, {})
        for step, passed in enumerate(steps, start=1):
            progress(depth + step, 2 * depth)
            for d, scores in passed:
                probabilities[d] = scores[0]
                if on_slices is not None:
                    on_slices([d], scores)
        return cls(features, probabilities)


def first_batch_indices(depth: int) -> range:
    """Indices of the slices that are encoded first; they span the volume and contain the middle slice."""
    return next(interleaved_batches(depth, BATCH_SIZE))


def interleaved_batches(depth: int, batch_size: int) -> Iterator[range]:
    """Batches of slice indices that each span the whole volume; the first one contains the middle slice."""
    step = -(-depth // batch_size)
    for n in range(step):
        yield range((depth // 2 + n) % step, depth, step)
