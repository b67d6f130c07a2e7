"""Most probable class of every pixel of the file's slices, from class probabilities on the mask grid."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from s2vnet.data.slice_grid import SliceGrid
from s2vnet.model.clustering import argmax_class


class _Footprint(NamedTuple):
    """Cells of one axis that each pixel is interpolated from: those from `first` to `last`, at most `width` of them."""

    first: npt.NDArray[np.intp]
    last: npt.NDArray[np.intp]
    width: int

    @classmethod
    def of(cls, matrix: Tensor | None, cells: int) -> _Footprint:
        """Footprint of an interpolation matrix (pixels, cells); None stands for the identity."""
        if matrix is None:
            return cls(np.arange(cells), np.arange(cells), 1)
        used = matrix.numpy() != 0
        first, last = used.argmax(1), used.shape[1] - 1 - used[:, ::-1].argmax(1)
        return cls(first, last, int((last - first).max()) + 1)

    def cell(self, n: int) -> npt.NDArray[np.intp]:
        """The n-th cell of each pixel, or its last one."""
        return np.minimum(self.first + n, self.last)


def upsample_labels(grid: SliceGrid, probabilities: Tensor) -> npt.NDArray[np.uint8]:
    """Most probable class (n, H, W) of source pixels, from class probabilities (n, K, h, w) of the file's slices.

    Interpolated probabilities are means of cells. Where all cells of a pixel have the same class, so has the pixel;
    only pixels along borders are interpolated, and only classes that reach a probability of 1 / K in some cell.
    """
    rows, columns = grid.upsampling_matrices(*probabilities.shape[-2:])
    footprints = _Footprint.of(rows, probabilities.shape[-2]), _Footprint.of(columns, probabilities.shape[-1])
    labels = np.empty((len(probabilities), *(len(each.first) for each in footprints)), np.uint8)
    for n, slice_probabilities in enumerate(probabilities):
        labels[n] = _upsample_slice(slice_probabilities.cpu(), rows, columns, *footprints)
    return labels


def _upsample_slice(
    probabilities: Tensor, rows: Tensor | None, columns: Tensor | None, vertical: _Footprint, horizontal: _Footprint
) -> npt.NDArray[np.uint8]:
    """Most probable class (H, W) of one slice's pixels, from class probabilities (K, h, w)."""
    possible = probabilities.flatten(1).amax(1) > 0.9 / len(probabilities)  # rounded, they need not sum to one
    possible[0] = True
    classes = possible.nonzero()[:, 0]
    if len(classes) == 1:
        return np.zeros((len(vertical.first), len(horizontal.first)), np.uint8)
    probabilities = probabilities[classes]
    cells = classes.to(torch.uint8)[argmax_class(probabilities[None])[0]].numpy()
    labels, mixed = _nearest_labels(cells, vertical, horizontal)
    i, j = mixed.nonzero()
    if len(i):
        top, bottom = int(i[0]), int(i[-1]) + 1
        band = probabilities[:, top:bottom] if rows is None else rows[top:bottom].to(probabilities) @ probabilities
        i = i - top
        scores = band[:, i, j] if columns is None else torch.zeros(len(classes), len(i))
        for n in range(horizontal.width if columns is not None else 0):
            cell = horizontal.cell(n)[j]
            weight = columns[j, cell] * torch.from_numpy(horizontal.first[j] + n <= horizontal.last[j])  # type: ignore[index]
            scores += weight * band[:, i, cell]
        labels[mixed] = classes.to(torch.uint8)[argmax_class(scores[None])[0]].numpy()
    return labels


def _nearest_labels(
    cells: npt.NDArray[np.uint8], vertical: _Footprint, horizontal: _Footprint
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Class (H, W) of each pixel's first cell, and whether its cells differ in class, from classes (h, w) of cells."""
    lines = cells[vertical.first]
    differing = np.zeros(lines.shape, bool)
    for n in range(1, vertical.width):
        differing |= cells[vertical.cell(n)] != lines
    # mode="clip": indices are never out of range, and checking them takes twice the time of taking
    labels = lines.take(horizontal.first, 1, mode="clip")
    mixed = differing.take(horizontal.first, 1, mode="clip")
    for n in range(1, horizontal.width):
        column = horizontal.cell(n)
        mixed |= lines.take(column, 1, mode="clip") != labels
        mixed |= differing.take(column, 1, mode="clip")
    return labels, mixed
