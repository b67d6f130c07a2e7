"""Automatic segmentation of a volume of any length in bounded memory, bit for bit as :mod:`.encoded_volume` does it.

Slices are prepared and encoded batch by batch, in the same batches; features and masks that wait for a later step go
to a :class:`~s2vnet.inference.disk_cache.DiskCache`. Both sweeps are decoded together, one slice of each per step. A
slice is complete once both sweeps have passed it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from s2vnet.data.preprocess import PreparedSlices, with_neighbours
from s2vnet.data.slice_grid import SliceGrid
from s2vnet.inference.disk_cache import DiskCache, MemoryBudget
from s2vnet.inference.encoded_volume import BATCH_SIZE, PreviewBatch, ProgressCallback, interleaved_batches
from s2vnet.inference.postprocessing import find_detached_parts, suppress_detached_parts
from s2vnet.inference.sweep import sweep_both_ways
from s2vnet.model.clustering import argmax_class
from s2vnet.model.interface import Network
from s2vnet.model.pixel_decoder import Features

_ENCODING_NBYTES = 1200
"""Peak bytes per pixel of a batch while it is encoded, at a stem stride of 1."""
_BORDER_NBYTES = 32
"""Bytes per pixel of the file while a slice's class borders are upsampled."""
_LIBRARIES_NBYTES = 100 << 20
"""Bytes that libraries allocate in addition."""

Image = npt.NDArray[np.float32] | PreparedSlices
"""Slices (C, D, H, W)."""


class CachedProbabilities:
    """Class probabilities (D, K, h, w) in a cache, without detached parts; slices are read when indexed."""

    def __init__(self, cache: DiskCache, labels: npt.NDArray[np.uint8], share: float) -> None:
        """Find the detached parts.

        Args:
            cache: class probabilities (1, K, h, w) by slice.
            labels: (D, h, w) most probable class.
            share: as of :func:`find_detached_parts`.
        """
        self._cache, self._labels = cache, labels
        self._detached = find_detached_parts(labels, share) if share else None

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: slice, /) -> Tensor:
        scores = torch.cat([self._cache[d][0] for d in range(len(self))[index]])
        if self._detached is None:
            return scores
        return suppress_detached_parts(scores, self._labels[index], self._detached[index])


@torch.inference_mode()
def segment_streaming(
    models: Sequence[Network],
    image: Image,
    depth: int,
    *,
    context: int,
    share: float,
    device: torch.device,
    budget: MemoryBudget,
    progress: ProgressCallback | None = None,
    first_batch: PreviewBatch | None = None,
) -> CachedProbabilities:
    """Segment a volume by the mean class probabilities of one or several networks.

    Args:
        models: networks in eval mode.
        image: (C, D, H, W), H and W multiples of the networks' stride.
        depth: D.
        context: neighbours on either side of a slice that are added as channels.
        share: detached parts smaller than this share of their class's largest part become background.
        device: device of the networks.
        budget: memory for cached features and masks; the rest is cached on disk.
        progress: called with slices encoded and decoded by each network.
        first_batch: first batch of the first network, if already computed.

    Raises:
        InputError: too little space on disk for what exceeds the memory budget.
    """
    sums = DiskCache(budget, depth)
    scores = DiskCache(budget, depth)
    labels: npt.NDArray[np.uint8] | None = None
    for number, model in enumerate(models):
        features = DiskCache(budget, depth)
        report = progress or (lambda done, total: None)
        done = 0
        for indices, encoded in _encode(model, image, depth, context, device, first_batch):
            for d, slice_features in zip(indices, encoded, strict=True):
                features[d] = slice_features.tensors
            done += len(indices)
            report(done, 2 * depth)
        first_batch = None
        pending = DiskCache(budget, depth)
        steps = sweep_both_ways(model, partial(_read_features, features), depth, pending)
        for step, passed in enumerate(steps, start=1):
            for d, masks in passed:
                total = masks if number == 0 else sums[d][0] + masks
                if number < len(models) - 1:
                    sums[d] = [total]
                    continue
                mean = (total / len(models)).half()
                scores[d] = [mean]
                if labels is None:
                    labels = np.empty((depth, *mean.shape[-2:]), np.uint8)
                labels[d] = argmax_class(mean)[0].to(torch.uint8).cpu().numpy()
            report(depth + step, 2 * depth)
        pending.close()
        features.close()
    sums.close()
    assert labels is not None
    return CachedProbabilities(scores, labels, share)


def _read_features(cache: DiskCache, d: int) -> Features:
    return Features.from_tensors(cache[d])


def _encode(
    model: Network, image: Image, depth: int, context: int, device: torch.device, first_batch: PreviewBatch | None
) -> Iterator[tuple[range, Sequence[Features]]]:
    """Indices and features of all slices, batch by batch; the next batch is prepared while one is encoded."""
    computed = None if first_batch is None else first_batch.indices
    batches = [indices for indices in interleaved_batches(depth, BATCH_SIZE) if indices != computed]
    if first_batch is not None:
        yield first_batch.indices, first_batch.features
    with ThreadPoolExecutor(1) as reader:
        upcoming = None
        for n, indices in enumerate(batches):
            slices = with_neighbours(image, indices, context) if upcoming is None else upcoming.result()
            if n + 1 < len(batches):
                upcoming = reader.submit(with_neighbours, image, batches[n + 1], context)
            yield indices, model.encode_slices(torch.from_numpy(slices).to(device))


def estimate_working_nbytes(models: Sequence[Network], grid: SliceGrid, concurrent: int, writing: int) -> int:
    """Estimate peak memory in bytes of segmenting, besides input, labels and caches.

    Args:
        models: the networks.
        grid: grid of the volume's slices.
        concurrent: number of slices of the file that are upsampled at a time.
        writing: bytes needed to write results, after all slices are encoded.
    """
    height, width = grid.padded
    pixels = height * width
    encoding = max(BATCH_SIZE * pixels * _ENCODING_NBYTES // model.config.stem_stride for model in models)
    classes = max(model.config.num_classes for model in models)
    stride = min(model.config.stem_stride for model in models)
    interpolated = 2 * classes * 4 * pixels // stride**2
    borders = classes * 4 * grid.size[1] * width // stride + _BORDER_NBYTES * grid.size[1] * grid.size[2]
    upsampling = concurrent * (interpolated + borders)
    labels = 16 * grid.depth * pixels // stride**2
    return _LIBRARIES_NBYTES + max(encoding, upsampling + writing) + labels
