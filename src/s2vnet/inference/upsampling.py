"""Most probable class of every pixel of the file's slices, from probabilities on the mask grid."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from s2vnet.data.slice_grid import SliceGrid
from s2vnet.model.clustering import argmax_class


class _Taps(NamedTuple):
    """Which cells of one axis make each pixel: `most` at most from `first` on, none beyond `last`."""

    first: npt.NDArray[np.intp]
    last: npt.NDArray[np.intp]
    most: int

    @classmethod
    def of(cls, matrix: Tensor | None, cells: int) -> _Taps:
        """Of a matrix (pixels, cells); None stands for the unit matrix."""
        if matrix is None:
            return cls(np.arange(cells), np.arange(cells), 1)
        used = matrix.numpy() != 0
        first, last = used.argmax(1), used.shape[1] - 1 - used[:, ::-1].argmax(1)
        return cls(first, last, int((last - first).max()) + 1)

    def at(self, n: int) -> npt.NDArray[np.intp]:
        """The n-th cell of each pixel, or its last one."""
        return np.minimum(self.first + n, self.last)


def upsample_labels(grid: SliceGrid, probabilities: Tensor) -> npt.NDArray[np.uint8]:
    """Most probable class (n, H, W) on source pixels, of class probabilities (n, K, h, w) of the file's slices.

    What lies between cells is a mean of theirs. So where all cells around a pixel have the same class, so has it, and
    only the others, along borders, are resampled; and a class that no cell gives its share, one in K, wins nowhere.
    """
    rows, columns = grid.upsampling_matrices(*probabilities.shape[-2:])
    around = _Taps.of(rows, probabilities.shape[-2]), _Taps.of(columns, probabilities.shape[-1])
    found = np.empty((len(probabilities), *(len(taps.first) for taps in around)), np.uint8)
    for n, one in enumerate(probabilities):
        found[n] = _winner(one.cpu(), rows, columns, *around)
    return found


def _winner(
    probabilities: Tensor, rows: Tensor | None, columns: Tensor | None, above: _Taps, beside: _Taps
) -> npt.NDArray[np.uint8]:
    some = probabilities.flatten(1).amax(1) > 0.9 / len(probabilities)  # rounded, they need not sum to one
    some[0] = True
    able = some.nonzero()[:, 0]
    if len(able) == 1:
        return np.zeros((len(above.first), len(beside.first)), np.uint8)
    probabilities = probabilities[able]
    cells = able.to(torch.uint8)[argmax_class(probabilities[None])[0]].numpy()
    found, mixed = _borders(cells, above, beside)
    i, j = mixed.nonzero()
    if len(i):
        top, bottom = int(i[0]), int(i[-1]) + 1
        band = probabilities[:, top:bottom] if rows is None else rows[top:bottom].to(probabilities) @ probabilities
        i = i - top
        scores = band[:, i, j] if columns is None else torch.zeros(len(able), len(i))
        for n in range(beside.most if columns is not None else 0):
            cell = beside.at(n)[j]
            share = columns[j, cell] * torch.from_numpy(beside.first[j] + n <= beside.last[j])  # type: ignore[index]
            scores += share * band[:, i, cell]
        found[mixed] = able.to(torch.uint8)[argmax_class(scores[None])[0]].numpy()
    return found


def _borders(
    cells: npt.NDArray[np.uint8], above: _Taps, beside: _Taps
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Class (H, W) of a cell of every pixel, and where not all of its cells have it; of the class (h, w) of cells."""
    lines = cells[above.first]
    unlike = np.zeros(lines.shape, bool)
    for n in range(1, above.most):
        unlike |= cells[above.at(n)] != lines
    # indices are never out of range; checking it takes twice the time of taking
    found = lines.take(beside.first, 1, mode="clip")
    mixed = unlike.take(beside.first, 1, mode="clip")
    for n in range(1, beside.most):
        there = beside.at(n)
        mixed |= lines.take(there, 1, mode="clip") != found
        mixed |= unlike.take(there, 1, mode="clip")
    return found, mixed
