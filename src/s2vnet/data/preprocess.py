"""Volume to slices and exactly back. The same code in training and inference.

File axes (I, J, K) -> closest RAS axes -> slices (D, H, W) across the plan's plane -> crop -> in-plane resampling
-> intensities -> padding. Across the plane nothing is resampled, but where slices lie closer together than in training
several are averaged into one, as a scanner would have; what the network says is interpolated between them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from s2vnet.data.plan import IntensityScheme, Plan
from s2vnet.types import InputError
from s2vnet.volume.geometry import Geometry, LabelMap, Orientation, Region, Volume

Float = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Restore:
    """The way from slices back to the file's grid."""

    geometry: Geometry
    """Grid of the file."""
    orientation: Orientation
    axis: int
    """Canonical axis that slices cut across."""
    start: tuple[int, int, int]
    """First voxel (d, row, column) of the crop in the uncropped slice stack."""
    size: tuple[int, int, int]
    """Voxels (D, H, W) of the crop before resampling."""
    sampled: tuple[int, int]
    """Pixels (H', W') after resampling."""
    padded: tuple[int, int]
    """Pixels after padding at the end of rows and columns: what the network sees."""
    joined: int = 1
    """Slices of the file that make one of the network's."""

    @property
    def depth(self) -> int:
        """The network's slices; the last one may be made of fewer of the file's."""
        return -(-self.size[0] // self.joined)

    @property
    def stack(self) -> tuple[int, int, int]:
        """Voxels (D, H, W) of the uncropped slice stack."""
        axes = self.axes
        d, h, w = (self.orientation.shape[self.orientation.axes[a]] for a in axes)
        return d, h, w

    @property
    def axes(self) -> tuple[int, int, int]:
        """Canonical axes of (D, H, W)."""
        row, column = (a for a in range(3) if a != self.axis)
        return self.axis, row, column

    def between(self, probabilities: Tensor, start: int, stop: int) -> Tensor:
        """The network's slices (depth, K, h, w) to those start..stop of the crop, interpolated where joined."""
        place = ((torch.arange(start, stop) + 0.5) / self.joined - 0.5).clamp(0, self.depth - 1)
        before = place.floor().long()
        after = (before + 1).clamp(max=self.depth - 1)
        first, last = int(before[0]), int(after[-1]) + 1
        near = probabilities[first:last].float()
        if self.joined == 1:
            return near[: stop - start]
        share = (place - before)[:, None, None, None].to(near)
        return torch.lerp(near[before - first], near[after - first], share)

    def reached(self, start: int, stop: int) -> tuple[int, int]:
        """Slices of the crop on which the network's slices start..stop have a say."""
        low = math.floor((start - 0.5) * self.joined - 0.5) + 1
        high = math.ceil((stop + 0.5) * self.joined - 0.5)
        return max(0, low), min(self.size[0], high)

    def to_source(self, probabilities: Tensor) -> Tensor:
        """Slices (n, K, h, w) on any grid over the padded slice, to (n, K, H, W) pixels of the file's slices."""
        steps = zip(probabilities.shape[-2:], self.padded, self.sampled, self.size[1:], strict=True)
        rows, columns = (None if len(set(lengths)) == 1 else _resampling(*lengths) for lengths in steps)
        if rows is not None:
            probabilities = rows.to(probabilities) @ probabilities
        if columns is not None:  # matrix by matrix, so that a slice does not depend, by a rounding, on those beside it
            probabilities = probabilities @ columns.t().to(probabilities).expand(*probabilities.shape[:2], -1, -1)
        return probabilities

    def place(self, slices: npt.NDArray[np.generic], fill: float = 0) -> npt.NDArray[np.generic]:
        """Source pixels (..., D, H, W) of the crop to file axes (..., I, J, K); outside the crop is `fill`."""
        lead = slices.shape[:-3]
        stack = np.full((*lead, *self.stack), fill, slices.dtype)
        d, h, w = (slice(a, a + n) for a, n in zip(self.start, self.size, strict=True))
        stack[..., d, h, w] = slices
        canonical = np.moveaxis(stack, len(lead), len(lead) + self.axis)
        return np.ascontiguousarray(self.orientation.invert(canonical))

    def own(self, d: int) -> tuple[int, int]:
        """Slices of the crop that make the network's slice `d`."""
        return d * self.joined, min((d + 1) * self.joined, self.size[0])

    def block(self, slices: npt.NDArray[np.uint8], start: int) -> tuple[Region, npt.NDArray[np.uint8]]:
        """Source pixels (n, H, W) of the crop's slices from `start` on, as a block of file voxels and its values."""
        values = self.orientation.invert(np.moveaxis(slices, 0, self.axis))
        return self.file_box(start, start + len(slices)), np.ascontiguousarray(values)

    def labels(self, slices: npt.NDArray[np.uint8]) -> LabelMap:
        """Label slices (D, H, W) of the crop to a label map on the file's grid."""
        return LabelMap(self.place(slices), self.geometry)  # type: ignore[arg-type]

    def to_slices(self, ijk: npt.ArrayLike) -> Float:
        """File voxels (N, 3) to (slice, row, column) of the network's, in pixels of the padded slices, not rounded."""
        canonical = self.orientation.apply_points(ijk)
        stack: Float = canonical[:, list(self.axes)] - np.array(self.start)
        stack[:, 0] = (stack[:, 0] + 0.5) / self.joined - 0.5
        for column, (n, m) in enumerate(zip(self.size[1:], self.sampled, strict=True), start=1):
            stack[:, column] = (stack[:, column] + 0.5) * m / n - 0.5
        return stack

    def crop_voxels(self, ijk: npt.ArrayLike) -> npt.NDArray[np.intp]:
        """File voxels (N, 3) to voxels (N, 3) of the crop (D, H, W); may lie outside it."""
        canonical = self.orientation.apply_points(ijk)
        moved: npt.NDArray[np.intp] = np.rint(canonical[:, list(self.axes)] - np.array(self.start)).astype(np.intp)
        return moved

    def file_box(self, start: int, stop: int) -> Region:
        """Block of file voxels that slices start..stop of the crop fill."""
        marks = np.array([[start, 0, 0], [stop - 1, self.size[1] - 1, self.size[2] - 1]]) + np.array(self.start)
        canonical = np.empty((2, 3))
        canonical[:, list(self.axes)] = marks
        ends = self.orientation.invert_points(canonical)
        i, j, k = (slice(int(a), int(b) + 1) for a, b in zip(ends.min(0), ends.max(0), strict=True))
        return i, j, k


@dataclass(frozen=True, eq=False)
class Case:
    """One volume, ready for the network."""

    name: str
    image: npt.NDArray[np.float32]
    """(C, D, H, W)."""
    labels: npt.NDArray[np.uint8] | None
    """(D, H, W), resampled and padded as the image."""
    restore: Restore


def preprocess(volume: Volume, plan: Plan, labels: LabelMap | None = None, name: str = "") -> Case:
    """Volume (C, I, J, K) to a case.

    Raises:
        InputError: another number of channels than the plan's, or labels on another grid.
    """
    if volume.data.shape[0] != len(plan.channels):
        wanted = ", ".join(plan.channels)
        raise InputError(f"{name or 'image'}: {volume.data.shape[0]} channels where the model needs {wanted}")
    geometry, orientation = volume.geometry.canonical()
    stack = np.moveaxis(orientation.apply(volume.data), 1 + plan.axis, 1)
    start, size = _box(stack) if plan.crop_to_nonzero else ((0, 0, 0), stack.shape[1:])
    window = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
    # a copy, since torch refuses the negative strides that flips leave on axes of one voxel
    image = torch.from_numpy(stack[(slice(None), *window)].copy(order="C"))
    joined = plan.joined(geometry.spacing[plan.axis])
    if joined > 1:  # torch's pooling refuses volumes of fewer slices than are joined
        image = torch.stack([part.mean(1) for part in image.split(joined, 1)], 1)
    in_plane = [geometry.spacing[a] for a in range(3) if a != plan.axis]
    sampled = [max(1, round(n * s / t)) for n, s, t in zip(size[1:], in_plane, plan.spacing, strict=True)]
    padded = [plan.multiple * -(-n // plan.multiple) for n in sampled]
    restore = Restore(
        volume.geometry, orientation, plan.axis, start, size, (sampled[0], sampled[1]), (padded[0], padded[1]), joined
    )
    image = _resize(image, restore.sampled)
    image = torch.stack([normalise(channel, scheme) for channel, scheme in zip(image, plan.intensities, strict=True)])
    pad = (0, padded[1] - sampled[1], 0, padded[0] - sampled[0])
    image = torch.stack([F.pad(channel, pad, value=float(channel.min())) for channel in image])
    truth = None
    if labels is not None:
        volume.geometry.require_same_grid(labels.geometry, f"{name}: image and labels")
        truth_stack = np.moveaxis(orientation.apply(labels.data), plan.axis, 0)[window]
        middle = np.minimum(np.arange(restore.depth) * joined + joined // 2, size[0] - 1)
        truth = _resize_labels(truth_stack[middle].copy(order="C"), restore.sampled)
        truth = np.pad(truth, ((0, 0), (0, pad[3]), (0, pad[1])))
    return Case(name, image.numpy(), truth, restore)


def mirrored(case: Case, axis: int) -> Case:
    """The case as if its volume's header stated a canonical axis in plane the other way round; labels are left out."""
    restore = case.restore
    place = restore.axes.index(axis)
    pixels = tuple(slice(n) for n in restore.sampled)  # padding stays at the end
    image = case.image.copy()
    image[..., pixels[0], pixels[1]] = np.flip(image[..., pixels[0], pixels[1]], 1 + place)
    start = list(restore.start)
    start[place] = restore.stack[place] - restore.start[place] - restore.size[place]
    turned = replace(restore, orientation=restore.orientation.mirrored(axis), start=(start[0], start[1], start[2]))
    return Case(case.name, image, None, turned)


def normalise(channel: Tensor, scheme: IntensityScheme) -> Tensor:
    """One channel (D, H, W) by its scheme; a constant channel becomes zero."""
    if scheme.kind == "ct":
        return (channel.clamp(scheme.low, scheme.high) - scheme.mean) / scheme.std
    low, high = np.percentile(channel.numpy(), [0.5, 99.5])
    clipped = channel.double().clamp(float(low), float(high))
    return ((clipped - clipped.mean()) / clipped.std(correction=0).clamp_min(1e-8)).float()


def with_neighbours(
    image: npt.NDArray[np.float32], slices: Sequence[int] | npt.NDArray[np.intp], context: int
) -> npt.NDArray[np.float32]:
    """Slices (T, C * (2 * context + 1), H, W) of an image (C, D, H, W), each with its neighbours as channels."""
    wanted = np.asarray(slices)[:, None] + np.arange(-context, context + 1)
    chosen = image[:, np.clip(wanted, 0, image.shape[1] - 1)]  # (C, T, 2n+1, H, W)
    return np.ascontiguousarray(np.moveaxis(chosen, 0, 2)).reshape(len(wanted), -1, *image.shape[2:])


def _box(stack: npt.NDArray[np.float32]) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Start and size (D, H, W) of the bounding box of nonzero voxels; everything when all are zero."""
    nonzero = (stack != 0).any(0)
    start, size = [0, 0, 0], list(nonzero.shape)
    for axis in range(3):
        found = np.flatnonzero(nonzero.any(tuple(a for a in range(3) if a != axis)))
        if len(found):
            start[axis], size[axis] = int(found[0]), int(found[-1] - found[0] + 1)
    return (start[0], start[1], start[2]), (size[0], size[1], size[2])


def _resize(slices: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear (with antialiasing) in plane, (A, B, h, w); exact when nothing changes."""
    if tuple(slices.shape[-2:]) == size:
        return slices
    return F.interpolate(slices, size=size, mode="bilinear", antialias=True)


@functools.lru_cache(maxsize=64)
def _resampling(cells: int, padded: int, sampled: int, pixels: int) -> Tensor:
    """Matrix (pixels, cells) of one axis: from any grid over the padded slice to pixels of the file.

    Resizing is linear, so this is its outcome on unit vectors; both steps in one product are several times faster.
    """
    grown = _resize(torch.eye(cells)[None, None], (padded, cells))[:, :, :sampled]
    return _resize(grown, (pixels, cells))[0, 0]


def _resize_labels(slices: npt.NDArray[np.generic], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    small = slices.astype(np.uint8)
    if small.shape[1:] == size:
        return small
    grown = F.interpolate(torch.from_numpy(small)[None], size=size, mode="nearest-exact")[0]
    resized: npt.NDArray[np.uint8] = grown.numpy()
    return resized
