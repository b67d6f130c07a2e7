"""Updates of single slices as soon as they are decoded, before the automatic result is complete."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from torch import Tensor

from s2vnet.data.slice_grid import SliceGrid
from s2vnet.inference.sweep import Sweep, average_sweeps
from s2vnet.inference.upsampling import upsample_labels
from s2vnet.io.geometry import Region

SliceCallback = Callable[[Region, npt.NDArray[np.uint8]], None]
"""Called with a block of file voxels and their labels; may raise to stop.

Labels of the automatic result are sent before detached parts are removed and slabs are interpolated.
"""


class LiveUpdates:
    """Sender of decoded slices, those nearest to the middle first."""

    def __init__(self, grid: SliceGrid, on_slice: SliceCallback) -> None:
        """Prepare sending slices of a grid to `on_slice`."""
        self._grid, self._on_slice = grid, on_slice

    def on_sweep(self, sweeps: tuple[Sweep, Sweep], passed: range) -> None:
        """Send slices that both sweeps have passed (:data:`s2vnet.inference.sweep.SweepCallback`)."""
        for d in sorted(passed, key=lambda d: abs(d - self._grid.depth / 2)):
            self.send(d, average_sweeps(sweeps, d, d + 1))

    def on_preview(self, indices: range, scores: Tensor) -> None:
        """Send slices decoded independently (:data:`s2vnet.inference.encoded_volume.PreviewCallback`)."""
        for n, d in sorted(enumerate(indices), key=lambda item: abs(item[1] - self._grid.depth / 2)):
            self.send(d, scores[n : n + 1])

    def send(self, d: int, scores: Tensor) -> None:
        """Send slice `d` with class probabilities (1, K, h, w)."""
        start, stop = self._grid.slab(d)
        labels = upsample_labels(self._grid, scores)
        region, block = self._grid.slices_to_file(np.repeat(labels, stop - start, 0), start)
        self._on_slice(region, block)
