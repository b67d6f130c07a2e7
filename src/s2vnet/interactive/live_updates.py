"""Updates of single slices as soon as they are decoded, with prompted and locked voxels set."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from torch import Tensor

from s2vnet.data.slice_grid import SliceGrid
from s2vnet.inference.sweep import Sweep, average_sweeps
from s2vnet.inference.upsampling import upsample_labels
from s2vnet.interactive.voxelize import is_box, prompt_cells, prompt_voxels
from s2vnet.io.geometry import Region
from s2vnet.prompts import Prompt

SliceCallback = Callable[[Region, npt.NDArray[np.uint8]], None]
"""Called with a block of file voxels and their labels once a slice is decoded; may raise to stop.

The labels are the network's with prompted and locked voxels set. Final labels may differ where detached parts are
removed, where voxels lose a class, and between slices that were averaged.
"""


class LiveUpdates:
    """Sender of decoded slices; those nearest to the newest prompt, or else to the middle, come first."""

    def __init__(
        self,
        grid: SliceGrid,
        on_slice: SliceCallback,
        prompts: tuple[Prompt, ...] = (),
        locked: Mapping[int, npt.NDArray[np.bool_]] | None = None,
        previous: tuple[Sweep, Sweep] | None = None,
    ) -> None:
        """Prepare sending.

        Args:
            grid: grid of the volume's slices.
            on_slice: called with each slice.
            prompts: prompts in the order they were given.
            locked: voxels (I, J, K) of each locked class.
            previous: sweeps whose slices were sent before.
        """
        self._grid, self._on_slice, self._locked, self._previous = grid, on_slice, locked or {}, previous
        self._assigned = [(p.class_id, prompt_voxels(p)) for p in prompts if p.positive and not is_box(p)]
        cells = prompt_cells(grid, prompts[-1]) if prompts else np.empty((0, 3))
        self._centre = float(cells[:, 0].mean()) if len(cells) else grid.depth / 2
        self._sent: set[int] = set()

    @property
    def newest(self) -> int:
        """Network slice of the newest prompt; the middle slice without prompts."""
        return int(np.clip(round(self._centre), 0, self._grid.depth - 1))

    def on_sweep(self, sweeps: tuple[Sweep, Sweep], passed: range) -> None:
        """Send slices that both sweeps have passed (:data:`s2vnet.inference.sweep.SweepCallback`)."""
        new = [d for d in passed if d not in self._sent and not (self._previous and _same(sweeps, self._previous, d))]
        self._sent.update(passed)
        for d in sorted(new, key=lambda d: abs(d - self._centre)):
            self.send(d, average_sweeps(sweeps, d, d + 1))

    def on_preview(self, indices: range, scores: Tensor) -> None:
        """Send slices decoded independently (:data:`s2vnet.inference.encoded_volume.PreviewCallback`)."""
        for n, d in sorted(enumerate(indices), key=lambda item: abs(item[1] - self._centre)):
            self.send(d, scores[n : n + 1])

    def send(self, d: int, scores: Tensor) -> None:
        """Send slice `d` with class probabilities (1, K, h, w)."""
        start, stop = self._grid.slab(d)
        labels = upsample_labels(self._grid, scores)
        region, block = self._grid.slices_to_file(np.repeat(labels, stop - start, 0), start)
        for class_id, voxels in self._assigned:
            offsets = voxels - [axis.start for axis in region]
            inside = ((offsets >= 0) & (offsets < block.shape)).all(1)
            block[tuple(offsets[inside].T)] = class_id
        for class_id, mask in self._locked.items():
            block[mask[region]] = class_id
        self._on_slice(region, block)


def _same(sweeps: tuple[Sweep, Sweep], others: tuple[Sweep, Sweep], d: int) -> bool:
    return all(a[d] is b[d] for a, b in zip(sweeps, others, strict=True))
