"""Result of segmenting one volume: labels, class probabilities and uncertainty on exactly its grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from s2vnet.data.slice_grid import SliceGrid, SliceProbabilities
from s2vnet.inference.upsampling import upsample_labels
from s2vnet.io.geometry import LabelMap, Volume

SLICES_PER_CHUNK = 4
"""Slices upsampled to the file's grid at a time, so that probabilities of a whole volume are never in memory."""
MAX_THREADS = 4
"""Threads that upsample at the same time."""


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Class probabilities of one volume, and the labels and uncertainty derived from them."""

    grid: SliceGrid
    stored_scores: SliceProbabilities = field(repr=False)
    """Class probabilities (D, K, h, w) on the mask grid; read slice by slice where they are cached on disk."""
    class_names: Mapping[int, str]
    """Class name by label value."""

    @property
    def scores(self) -> Tensor:
        """Class probabilities (D, K, h, w) of the network's slices on the mask grid, float16; all in memory."""
        return self.stored_scores[:]

    def labels(self, classes: Sequence[int] | None = None) -> LabelMap:
        """Most probable class of every voxel; classes that are not in `classes` become background."""
        labels = np.zeros(self.grid.geometry.shape, np.uint8)

        def fill(n: int) -> None:
            slices = self.label_slices(n, min(n + SLICES_PER_CHUNK, self.grid.size[0]))
            if classes is not None:
                slices[~np.isin(slices, list(classes))] = 0
            block, values = self.grid.slices_to_file(slices, n)
            labels[block] = values

        # pixels on borders are gathered by index, which no library does in several threads
        with ThreadPoolExecutor(min(torch.get_num_threads(), MAX_THREADS)) as pool:
            for _ in pool.map(fill, range(0, self.grid.size[0], SLICES_PER_CHUNK)):
                pass
        return LabelMap(labels, self.grid.geometry)

    def label_slices(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Most probable class (stop - start, H, W) on the source pixels of slices start..stop of the crop."""
        return np.concatenate([upsample_labels(self.grid, part) for part in self._chunks(start, stop)])

    def probabilities(self) -> Volume:
        """Class probabilities (C, I, J, K) on the file's grid, C classes; background is 1 outside the crop."""
        volume = np.zeros((len(self.class_names), *self.grid.geometry.shape), np.float32)
        volume[0] = 1
        return self._fill(volume, lambda p: p)

    def uncertainty(self) -> Volume:
        """Entropy (1, I, J, K) of the class probabilities divided by log K, 0 (certain) to 1, on the file's grid."""
        volume = np.zeros((1, *self.grid.geometry.shape), np.float32)
        return self._fill(volume, lambda p: torch.special.entr(p.clamp(0, 1)).sum(1, keepdim=True) / np.log(p.shape[1]))

    def _fill(self, volume: npt.NDArray[np.float32], function: Callable[[Tensor], Tensor]) -> Volume:
        """Fill the crop of a volume (C, I, J, K) with a function of the probabilities (n, K, H, W) of its slices."""
        start = 0
        for probabilities in self.source_probabilities(0, self.grid.size[0]):
            stack: npt.NDArray[np.float32] = function(probabilities).cpu().float().numpy()
            block, values = self.grid.slices_to_file(np.moveaxis(stack, 1, 0), start)
            volume[(slice(None), *block)] = values
            start += len(stack)
        return Volume(volume, self.grid.geometry)

    def source_probabilities(self, start: int, stop: int) -> Iterator[Tensor]:
        """Class probabilities (n, K, H, W) on source pixels of slices start..stop of the crop, a few at a time."""
        for part in self._chunks(start, stop):
            yield self.grid.upsample(part)

    def _chunks(self, start: int, stop: int) -> Iterator[Tensor]:
        """Class probabilities (n, K, h, w) on the mask grid of slices start..stop of the crop, a few at a time."""
        for n in range(start, stop, SLICES_PER_CHUNK):
            yield self.grid.interpolate_slices(self.stored_scores, n, min(n + SLICES_PER_CHUNK, stop))


def volumes_ml(labels: LabelMap, class_names: Mapping[int, str]) -> dict[str, float]:
    """Volume in ml of each class but background."""
    voxel = labels.geometry.voxel_volume_ml
    return {name: float(np.count_nonzero(labels.data == k) * voxel) for k, name in class_names.items() if k}
