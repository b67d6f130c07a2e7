"""Slices told as they are done: what the network says of one, with the prompted voxels and locks in their place."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from torch import Tensor

from s2vnet.data.slice_grid import SliceGrid
from s2vnet.inference.encoded_volume import Sweep, average_sweeps
from s2vnet.inference.upsampling import upsample_labels
from s2vnet.interactive.voxelize import is_box, prompt_cells, prompt_voxels
from s2vnet.io.geometry import Region
from s2vnet.prompts import Prompt

SliceCallback = Callable[[Region, npt.NDArray[np.uint8]], None]
"""Told of a block of file voxels and their labels as soon as a slice is done; may raise to end the work.

They are as the network and the prompted voxels say; the labels in the end may differ where parts are taken for strays,
where voxels lose a class, and between slices that were joined.
"""


class LiveUpdates:
    """What tells a watch of the network's slices. Those next to the newest prompt come first, else the middle ones."""

    def __init__(
        self,
        grid: SliceGrid,
        watch: SliceCallback,
        prompts: tuple[Prompt, ...] = (),
        frozen: Mapping[int, npt.NDArray[np.bool_]] | None = None,
        shown: tuple[Sweep, Sweep] | None = None,
    ) -> None:
        """Args: the volume's grid, who is told, prompts and locked voxels, and sweeps whose slices were told before."""
        self._grid, self._watch, self._frozen, self._shown = grid, watch, frozen or {}, shown
        self._said = [(p.class_id, prompt_voxels(p)) for p in prompts if p.positive and not is_box(p)]
        cells = prompt_cells(grid, prompts[-1]) if prompts else np.empty((0, 3))
        self._middle = float(cells[:, 0].mean()) if len(cells) else grid.depth / 2
        self._told: set[int] = set()

    @property
    def newest(self) -> int:
        """The network's slice of the newest prompt; the middle one where there is none."""
        return int(np.clip(round(self._middle), 0, self._grid.depth - 1))

    def swept(self, sweeps: tuple[Sweep, Sweep], passed: range) -> None:
        """Tell of slices that both sweeps have passed (:data:`s2vnet.inference.encoded_volume.SweepCallback`)."""
        fresh = [d for d in passed if d not in self._told and not (self._shown and _same(sweeps, self._shown, d))]
        self._told.update(passed)
        for d in sorted(fresh, key=lambda d: abs(d - self._middle)):
            self.tell(d, average_sweeps(sweeps, d, d + 1))

    def seen_alone(self, places: range, scores: Tensor) -> None:
        """Tell of slices that were decoded each by itself (:data:`s2vnet.inference.encoded_volume.PreviewCallback`)."""
        for n, d in sorted(enumerate(places), key=lambda item: abs(item[1] - self._middle)):
            self.tell(d, scores[n : n + 1])

    def tell(self, d: int, scores: Tensor) -> None:
        """Tell of one slice with class probabilities (1, K, h, w)."""
        start, stop = self._grid.slab(d)
        stack = upsample_labels(self._grid, scores)
        region, block = self._grid.slices_to_file(np.repeat(stack, stop - start, 0), start)
        for class_id, voxels in self._said:
            places = voxels - [axis.start for axis in region]
            inside = ((places >= 0) & (places < block.shape)).all(1)
            block[tuple(places[inside].T)] = class_id
        for class_id, mask in self._frozen.items():
            block[mask[region]] = class_id
        self._watch(region, block)


def _same(sweeps: tuple[Sweep, Sweep], shown: tuple[Sweep, Sweep], d: int) -> bool:
    return all(a[d] is b[d] for a, b in zip(sweeps, shown, strict=True))
