"""Automatic sweeps of a volume of any length in bounded memory, to the bit what :mod:`.engine` makes of it.

Slices are prepared and encoded some at a time, in the engine's batches; what must wait for its turn goes to a
:class:`~s2vnet.inference.disk_cache.DiskCache`. Both sweeps go through the decoder together, rising first and falling
second, as in :class:`~s2vnet.inference.encoded_volume.EncodedVolume`.
A slice's result is complete when the second of them has passed it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from s2vnet.data.preprocess import PreparedSlices, with_neighbours
from s2vnet.data.slice_grid import SliceGrid
from s2vnet.inference.disk_cache import DiskCache, MemoryBudget
from s2vnet.inference.encoded_volume import (
    BATCH_SIZE,
    PreviewBatch,
    ProgressCallback,
    average_directions,
    decode_step,
    interleaved_batches,
)
from s2vnet.inference.postprocessing import find_detached_parts, suppress_detached_parts
from s2vnet.model.clustering import argmax_class
from s2vnet.model.pixel_decoder import Features
from s2vnet.model.propagation import propagate
from s2vnet.model.s2vnet import Network

_PER_PIXEL = 1200
"""Bytes that encoding takes at most for a pixel of a batch, at a stem's stride of 1."""
_PER_BORDER = 32
"""Bytes that finding a slice's borders takes for a pixel of the file."""
_AROUND = 100 << 20
"""Bytes for what the libraries hold besides."""

Image = npt.NDArray[np.float32] | PreparedSlices
"""Slices (C, D, H, W)."""


class CachedProbabilities:
    """Class probabilities of a volume that are not all in memory, without their strays."""

    def __init__(self, spill: DiskCache, winner: npt.NDArray[np.uint8], share: float) -> None:
        """Args: probabilities by slice, most probable class (D, h, w), and the share of :func:`find_detached_parts`."""
        self._spill, self._winner = spill, winner
        self._strays = find_detached_parts(winner, share, {}) if share else None

    def __len__(self) -> int:
        return len(self._winner)

    def __getitem__(self, index: slice, /) -> Tensor:
        scores = torch.cat([self._spill[d][0] for d in range(len(self))[index]])
        if self._strays is None:
            return scores
        return suppress_detached_parts(scores, self._winner[index], self._strays[index])


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
    first: PreviewBatch | None = None,
) -> CachedProbabilities:
    """Segment a volume by the mean of some networks.

    Args:
        models: in eval mode.
        image: (C, D, H, W), H and W multiples of the networks' stride.
        depth: D.
        context: neighbours on either side of a slice that come with it.
        share: detached parts of less than this share of their class's largest part are left out.
        device: where the networks are.
        budget: for what is kept in memory.
        progress: told of encoded and decoded slices.
        first: what the first network has made of the first places, if it has seen them.

    Raises:
        InputError: there is too little space on disk for what memory has no room for.
    """
    totals = DiskCache(budget, depth)
    scores = DiskCache(budget, depth)
    winner: npt.NDArray[np.uint8] | None = None
    for number, model in enumerate(models):
        features = DiskCache(budget, depth)
        told = progress or (lambda done, total: None)
        done = 0
        for places, rows in _encoded(model, image, depth, context, device, first):
            for d, one in zip(places, rows, strict=True):
                features[d] = one.tensors
            done += len(places)
            told(done, 2 * depth)
        first = None
        for d, mean in _swept(model, features, depth, DiskCache(budget, depth), told):
            total = mean if number == 0 else totals[d][0] + mean
            if number < len(models) - 1:
                totals[d] = [total]
                continue
            final = (total / len(models)).half()
            scores[d] = [final]
            if winner is None:
                winner = np.empty((depth, *final.shape[-2:]), np.uint8)
            winner[d] = argmax_class(final)[0].to(torch.uint8).cpu().numpy()
        features.close()
    totals.close()
    assert winner is not None
    return CachedProbabilities(scores, winner, share)


def _encoded(
    model: Network, image: Image, depth: int, context: int, device: torch.device, first: PreviewBatch | None
) -> Iterator[tuple[range, Sequence[Features]]]:
    """Places and features of all slices, batch by batch; the next batch is made ready while one is encoded."""
    batches = [places for places in interleaved_batches(depth, BATCH_SIZE) if first is None or places != first.places]
    if first is not None:
        yield first.places, first.features
    with ThreadPoolExecutor(1) as reader:
        waiting = None
        for n, places in enumerate(batches):
            slices = with_neighbours(image, places, context) if waiting is None else waiting.result()
            if n + 1 < len(batches):
                waiting = reader.submit(with_neighbours, image, batches[n + 1], context)
            yield places, model.encode_slices(torch.from_numpy(slices).to(device))


def _swept(
    model: Network, features: DiskCache, depth: int, waiting: DiskCache, told: Callable[[int, int], None]
) -> Iterator[tuple[int, Tensor]]:
    """Slices and their class probabilities (1, K, h, w), the mean of both sweeps, as both have passed them."""

    def steps() -> Iterator[tuple[list[Features], list[None]]]:
        for step in range(depth):
            yield [Features.from_tensors(features[d]) for d in (step, depth - 1 - step)], [None, None]

    both = Features.from_tensors(features[0])
    start = [model.initial_state(both, torch.tensor([way], device=both.mask.device)) for way in (1.0, -1.0)]
    for step, found in enumerate(propagate(partial(decode_step, model), steps(), start)):
        for d, masks in zip((step, depth - 1 - step), found.masks, strict=True):
            assert masks is not None
            if d in waiting:
                yield d, average_directions([waiting[d][0], masks])
            else:
                waiting[d] = [masks]
        told(depth + step + 1, 2 * depth)
    waiting.close()


def estimate_working_nbytes(models: Sequence[Network], grid: SliceGrid, at_once: int, writing: int) -> int:
    """About the most memory that segmenting takes beside input, labels and what is kept.

    Args: the networks, the way back to the file, how many of its slices are brought to its grid at a time, and what
        writing takes, when nothing is encoded any more.
    """
    height, width = grid.padded
    pixels = height * width
    encoding = max(BATCH_SIZE * pixels * _PER_PIXEL // model.config.stem_stride for model in models)
    classes = max(model.config.num_classes for model in models)
    stride = min(model.config.stem_stride for model in models)
    between = 2 * classes * 4 * pixels // stride**2
    bordering = classes * 4 * grid.size[1] * width // stride + _PER_BORDER * grid.size[1] * grid.size[2]
    back = at_once * (between + bordering)
    winners = 16 * grid.depth * pixels // stride**2
    return _AROUND + max(encoding, back + writing) + winners
