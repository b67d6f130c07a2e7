"""Conversions between the coordinate spaces of a volume and of the network.

* voxel: index (i, j, k) on the file's grid
* canonical: index along the closest R, A, S axes
* crop: index (d, row, column) in the stack of slices across the plan's plane, after cropping
* pixel: network slice, row and column after resampling and padding, not rounded
* cell: as pixel, on the mask grid of stem stride S, which has one cell per S x S pixels

Slices that lie closer together than in training are averaged in slabs: then one network slice covers several slices of
the crop. Nothing else is resampled across the plane.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from s2vnet.data.plan import Plan
from s2vnet.io.geometry import FloatArray, Geometry, LabelMap, Orientation, Region, Shape

_Scalar = TypeVar("_Scalar", bound=np.generic)


class SliceProbabilities(Protocol):
    """Class probabilities (D, K, h, w) of network slices, indexed by a range of slices; a tensor is one."""

    def __getitem__(self, index: slice, /) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class SliceGrid:
    """Grid of a volume's network slices, and the conversions to and from the file's grid."""

    geometry: Geometry
    """Grid of the file."""
    orientation: Orientation
    """Permutation and flips from file axes to canonical axes."""
    axis: int
    """Canonical axis (R, A, S) that slices cut across."""
    start: Shape
    """First voxel (d, row, column) of the crop in the uncropped slice stack."""
    size: Shape
    """Voxels (D, H, W) of the crop before resampling."""
    sampled: tuple[int, int]
    """Pixels (H', W') after resampling."""
    padded: tuple[int, int]
    """Pixels (H'', W'') of the network's input, padded at the end of rows and columns."""
    slab_size: int = 1
    """Adjacent slices of the crop that are averaged into one network slice."""

    @classmethod
    def from_plan(
        cls, geometry: Geometry, plan: Plan, start: Shape | None = None, size: Shape | None = None
    ) -> SliceGrid:
        """Grid that a plan gives a file's grid, or the crop at `start` with `size` (D, H, W) of its slice stack."""
        canonical, orientation = geometry.canonical()
        in_plane = [a for a in range(3) if a != plan.axis]
        whole = canonical.shape[plan.axis], canonical.shape[in_plane[0]], canonical.shape[in_plane[1]]
        start, size = start or (0, 0, 0), size or whole
        spacing = [canonical.spacing[a] for a in in_plane]
        rows, columns = (max(1, round(n * s / t)) for n, s, t in zip(size[1:], spacing, plan.spacing, strict=True))
        height, width = (plan.pad_multiple * -(-n // plan.pad_multiple) for n in (rows, columns))
        slab_size = plan.slab_size(canonical.spacing[plan.axis])
        return cls(geometry, orientation, plan.axis, start, size, (rows, columns), (height, width), slab_size)

    @property
    def depth(self) -> int:
        """Number of network slices; the last slab may be smaller."""
        return -(-self.size[0] // self.slab_size)

    @property
    def pixel_size(self) -> float:
        """Mean height and width of a pixel of the network's slices, in mm."""
        spacing = self.geometry.canonical()[0].spacing
        sizes = [spacing[a] * n / m for a, n, m in zip(self.axes[1:], self.size[1:], self.sampled, strict=True)]
        return sum(sizes) / len(sizes)

    @property
    def slice_distance(self) -> float:
        """Distance of two network slices, in pixels."""
        return self.geometry.canonical()[0].spacing[self.axis] * self.slab_size / self.pixel_size

    @property
    def axes(self) -> Shape:
        """Canonical axes of (D, H, W)."""
        row, column = (a for a in range(3) if a != self.axis)
        return self.axis, row, column

    @property
    def uncropped_size(self) -> Shape:
        """Voxels (D, H, W) of the uncropped slice stack."""
        d, h, w = (self.orientation.shape[self.orientation.axes[a]] for a in self.axes)
        return d, h, w

    @property
    def crop(self) -> Region:
        """Index ranges of the crop in the uncropped slice stack (D, H, W)."""
        d, h, w = (slice(a, a + n) for a, n in zip(self.start, self.size, strict=True))
        return d, h, w

    def mirror(self, axis: int) -> SliceGrid:
        """Return the grid for a file whose canonical axis `axis` is flipped."""
        n, start = self.axes.index(axis), list(self.start)
        start[n] = self.uncropped_size[n] - self.start[n] - self.size[n]
        return replace(self, orientation=self.orientation.mirrored(axis), start=(start[0], start[1], start[2]))

    def voxels_to_crop(self, ijk: npt.ArrayLike) -> npt.NDArray[np.intp]:
        """Crop voxels (N, 3) of file voxels (N, 3); may lie outside the crop."""
        return np.rint(self._voxels_to_crop(ijk)).astype(np.intp)

    def voxels_to_pixels(self, ijk: npt.ArrayLike) -> FloatArray:
        """Network slice, row and column (N, 3) of file voxels (N, 3), in padded pixels, not rounded."""
        pixels = self._voxels_to_crop(ijk)
        pixels[:, 0] = (pixels[:, 0] + 0.5) / self.slab_size - 0.5
        for column, (n, m) in enumerate(zip(self.size[1:], self.sampled, strict=True), start=1):
            pixels[:, column] = (pixels[:, column] + 0.5) * m / n - 0.5
        return pixels

    def voxels_to_cells(self, ijk: npt.ArrayLike, stride: int) -> FloatArray:
        """Network slice, row and column (N, 3) of file voxels (N, 3), in cells of `stride` pixels, not rounded."""
        cells = self.voxels_to_pixels(ijk)
        cells[:, 1:] = (cells[:, 1:] + 0.5) / stride - 0.5
        return cells

    def cells_to_voxels(self, cells: npt.ArrayLike, stride: int) -> npt.NDArray[np.intp]:
        """File voxels (N, 3) nearest to the centres of cells (N, 3), within the volume."""
        crop = np.array(cells, np.float64)
        crop[:, 1:] = (crop[:, 1:] + 0.5) * stride - 0.5
        crop[:, 0] = (crop[:, 0] + 0.5) * self.slab_size - 0.5
        for column, (n, m) in enumerate(zip(self.size[1:], self.sampled, strict=True), start=1):
            crop[:, column] = (crop[:, column] + 0.5) * n / m - 0.5
        canonical = np.empty_like(crop)
        canonical[:, list(self.axes)] = crop + np.array(self.start)
        voxels = np.rint(self.orientation.invert_points(canonical)).astype(np.intp)
        within: npt.NDArray[np.intp] = np.clip(voxels, 0, np.array(self.orientation.shape) - 1)
        return within

    def labels_to_pixels(
        self, labels: npt.NDArray[np.uint8], start: int = 0, stop: int | None = None
    ) -> npt.NDArray[np.uint8]:
        """Labels (n, H'', W'') of padded network slices start..stop, by nearest neighbour, of file labels (I, J, K)."""
        stack = np.moveaxis(self.orientation.apply(labels), self.axis, 0)[self.crop]
        rows, columns = (
            np.minimum(((np.arange(m) + 0.5) * n / m).astype(np.intp), n - 1)
            for n, m in zip(self.size[1:], self.sampled, strict=True)
        )
        slices = stack[np.ix_(self.slab_centres()[start:stop], rows, columns)]
        return np.pad(slices, ((0, 0), *((0, n - m) for n, m in zip(self.padded, self.sampled, strict=True))))

    def slab(self, d: int) -> tuple[int, int]:
        """Slices start..stop of the crop that are averaged into network slice `d`."""
        return d * self.slab_size, min((d + 1) * self.slab_size, self.size[0])

    def slab_centres(self) -> npt.NDArray[np.intp]:
        """Middle slice (D',) of the crop in the slab of each network slice."""
        return np.minimum(np.arange(self.depth) * self.slab_size + self.slab_size // 2, self.size[0] - 1)

    def affected_slices(self, start: int, stop: int) -> tuple[int, int]:
        """Slices of the crop whose interpolated probabilities depend on network slices start..stop."""
        low = math.floor((start - 0.5) * self.slab_size - 0.5) + 1
        high = math.ceil((stop + 0.5) * self.slab_size - 0.5)
        return max(0, low), min(self.size[0], high)

    def interpolate_slices(self, probabilities: SliceProbabilities, start: int, stop: int) -> Tensor:
        """Probabilities (n, K, h, w) of the crop's slices start..stop, linear between network slices (D', K, h, w)."""
        position = ((torch.arange(start, stop) + 0.5) / self.slab_size - 0.5).clamp(0, self.depth - 1)
        before = position.floor().long()
        after = (before + 1).clamp(max=self.depth - 1)
        first, last = int(before[0]), int(after[-1]) + 1
        near = probabilities[first:last].float()
        if self.slab_size == 1:
            return near[: stop - start]
        weight = (position - before)[:, None, None, None].to(near)
        return torch.lerp(near[before - first], near[after - first], weight)

    def upsample(self, probabilities: Tensor, rows: slice = slice(None), columns: slice = slice(None)) -> Tensor:
        """Probabilities (n, K, H, W) on the crop's voxels, of those (n, K, h, w) on any grid over the padded slice.

        With ranges of rows and columns only these voxels are computed; they differ from the whole by rounding.
        """
        across, along = self.upsampling_matrices(*probabilities.shape[-2:])
        across, used_rows = _used(across, rows)
        along, used_columns = _used(along, columns)
        probabilities = probabilities[..., used_rows, used_columns]
        if across is not None:
            probabilities = across.to(probabilities) @ probabilities
        if along is not None:  # matrix by matrix, so that rounding in a slice does not depend on its batch
            probabilities = probabilities @ along.t().to(probabilities).expand(*probabilities.shape[:2], -1, -1)
        return probabilities

    def voxels_near_pixels(self, rows: slice, columns: slice) -> tuple[slice, slice]:
        """Rows and columns of the crop that are interpolated from any of these pixels."""
        found = []
        for matrix, part in zip(self.upsampling_matrices(*self.padded), (rows, columns), strict=True):
            near = part if matrix is None else _range((matrix[:, part] != 0).any(1))
            found.append(near)
        return found[0], found[1]

    def upsampling_matrices(self, height: int, width: int) -> tuple[Tensor | None, Tensor | None]:
        """Matrices (H, height) and (W, width) from a grid over the padded slice to the crop; None for the identity."""
        steps = zip((height, width), self.padded, self.sampled, self.size[1:], strict=True)
        rows, columns = (None if len(set(lengths)) == 1 else _upsampling_matrix(*lengths) for lengths in steps)
        return rows, columns

    def file_region(self, start: int, stop: int, rows: slice = slice(None), columns: slice = slice(None)) -> Region:
        """Block of file voxels that slices start..stop of the crop fill, or some of their rows and columns."""
        (top, bottom, _), (left, right, _) = rows.indices(self.size[1]), columns.indices(self.size[2])
        corners = np.array([[start, top, left], [stop - 1, bottom - 1, right - 1]]) + np.array(self.start)
        canonical = np.empty((2, 3))
        canonical[:, list(self.axes)] = corners
        ends = self.orientation.invert_points(canonical)
        i, j, k = (slice(int(a), int(b) + 1) for a, b in zip(ends.min(0), ends.max(0), strict=True))
        return i, j, k

    def slices_to_file(
        self,
        slices: npt.NDArray[_Scalar],
        start: int,
        rows: slice = slice(None),
        columns: slice = slice(None),
    ) -> tuple[Region, npt.NDArray[_Scalar]]:
        """File block that slices (..., n, H, W) of the crop fill, and its values (..., i, j, k).

        Args:
            slices: values of slices from `start` on, or of some of their rows and columns.
            start: slice of the crop.
            rows: rows that the values are for.
            columns: columns that the values are for.
        """
        lead = slices.ndim - 3
        values = self.orientation.invert(np.moveaxis(slices, lead, lead + self.axis))
        region = self.file_region(start, start + slices.shape[lead], rows, columns)
        return region, np.ascontiguousarray(values)

    def crop_to_file(self, slices: npt.NDArray[np.generic], fill: float = 0) -> npt.NDArray[np.generic]:
        """Array (..., I, J, K) in file axes of one (..., D, H, W) on the crop; `fill` outside the crop."""
        lead = slices.shape[:-3]
        stack = np.full((*lead, *self.uncropped_size), fill, slices.dtype)
        stack[(..., *self.crop)] = slices
        canonical = np.moveaxis(stack, len(lead), len(lead) + self.axis)
        return np.ascontiguousarray(self.orientation.invert(canonical))

    def label_map(self, slices: npt.NDArray[np.uint8]) -> LabelMap:
        """Label map on the file's grid of label slices (D, H, W) on the crop."""
        return LabelMap(self.crop_to_file(slices), self.geometry)  # type: ignore[arg-type]

    def _voxels_to_crop(self, ijk: npt.ArrayLike) -> FloatArray:
        canonical = self.orientation.apply_points(ijk)
        return np.asarray(canonical[:, list(self.axes)] - np.array(self.start), np.float64)


def resize_slices(slices: Tensor, size: tuple[int, int]) -> Tensor:
    """Slices (A, B, h, w) resampled bilinearly with antialiasing to `size` in plane; unchanged where they have it."""
    if tuple(slices.shape[-2:]) == size:
        return slices
    return F.interpolate(slices, size=size, mode="bilinear", antialias=True)


def _used(matrix: Tensor | None, part: slice) -> tuple[Tensor | None, slice]:
    """Part of an interpolation matrix that gives some voxels, and the cells that they depend on; None: the identity."""
    if part == slice(None):
        return matrix, part
    if matrix is None:
        return None, part
    cells = _range((matrix[part] != 0).any(0))
    return matrix[part, cells], cells


def _range(chosen: Tensor) -> slice:
    """Smallest range that holds all True elements (n,)."""
    indices = chosen.nonzero()
    return slice(int(indices[0]), int(indices[-1]) + 1)


@functools.lru_cache(maxsize=64)
def _upsampling_matrix(cells: int, padded: int, sampled: int, voxels: int) -> Tensor:
    """Matrix (voxels, cells) of one axis: from a grid over the padded slice to the crop's voxels.

    Resizing is linear, so its result on unit vectors is its matrix; one product for both steps is several times faster.
    """
    on_pixels = resize_slices(torch.eye(cells)[None, None], (padded, cells))[:, :, :sampled]
    return resize_slices(on_pixels, (voxels, cells))[0, 0]
