"""Updates of slices as soon as they are known: of the automatic result, and of what a prompt changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from s2vnet.data.slice_grid import SliceGrid
from s2vnet.inference.upsampling import upsample_labels
from s2vnet.interactive.label_changes import LabelChange
from s2vnet.interactive.voxelize import is_prompt, prompt_corners
from s2vnet.io.geometry import Region
from s2vnet.prompts import Entry

SliceCallback = Callable[[Region, npt.NDArray[np.uint8]], None]
"""Called with a block of file voxels and their labels; may raise to stop.

Labels of the automatic result are sent before detached parts are removed and slabs are interpolated.
"""


class LiveUpdates:
    """Sender of decoded slices, those nearest to the middle first."""

    def __init__(self, grid: SliceGrid, on_slice: SliceCallback) -> None:
        """Prepare sending slices of a grid to `on_slice`."""
        self._grid, self._on_slice = grid, on_slice

    def on_slices(self, indices: Sequence[int], scores: Tensor) -> None:
        """Send slices (:data:`s2vnet.inference.encoded_volume.SlicesCallback`)."""
        for n, d in sorted(enumerate(indices), key=lambda item: abs(item[1] - self._grid.depth / 2)):
            self.send(d, scores[n : n + 1])

    def send(self, d: int, scores: Tensor) -> None:
        """Send slice `d` with class probabilities (1, K, h, w)."""
        start, stop = self._grid.slab(d)
        labels = upsample_labels(self._grid, scores)
        region, block = self._grid.slices_to_file(np.repeat(labels, stop - start, 0), start)
        self._on_slice(region, block)


def change_updates(
    labels: npt.NDArray[np.uint8], entry: Entry, axis: int, on_slice: SliceCallback
) -> Callable[[LabelChange], None]:
    """Sender of the voxels that an entry changes, while it is computed; voxels on its own slice come first.

    Args:
        labels: (I, J, K) labels before the entry.
        entry: entry of the log.
        axis: file axis perpendicular to the network's slices.
        on_slice: called with smallest blocks around voxels that were not sent yet.

    Returns:
        Function that takes the change that is found so far.
    """
    sent = np.empty(0, np.intp)

    def send(change: LabelChange) -> None:
        nonlocal sent
        new = np.setxor1d(change.voxels, sent, assume_unique=True)
        if not len(new) or not is_prompt(entry):
            return
        sent = change.voxels
        indices = np.stack(np.unravel_index(new, labels.shape), 1)
        prompted = int(np.median(prompt_corners(entry)[:, axis]))
        changed = np.stack(np.unravel_index(change.voxels, labels.shape), 1)
        for chosen in (indices[:, axis] == prompted, indices[:, axis] != prompted):
            if chosen.any():
                low, high = indices[chosen].min(0).tolist(), (indices[chosen].max(0) + 1).tolist()
                i, j, k = (slice(a, b) for a, b in zip(low, high, strict=True))
                block = labels[i, j, k].copy()
                within = ((changed >= low) & (changed < high)).all(1)
                block[tuple((changed[within] - low).T)] = change.after[within]
                on_slice((i, j, k), block)

    return send
