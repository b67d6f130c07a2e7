"""Volume to slices and exactly back. The same code in training and inference.

File axes (I, J, K) -> closest RAS axes -> slices (D, H, W) across the plan's plane -> crop -> in-plane resampling
-> intensities -> padding. Across the plane nothing is resampled, but where slices lie closer together than in training
several are averaged into one, as a scanner would have; what the network says is interpolated between them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from s2vnet.data.plan import IntensityScheme, Plan
from s2vnet.errors import InputError
from s2vnet.io.geometry import Geometry, LabelMap, Orientation, Region, Volume
from s2vnet.io.lazy_image import Channel, LazyImage

Float = npt.NDArray[np.float64]
_Scalar = TypeVar("_Scalar", bound=np.generic)


class Scores(Protocol):
    """Class probabilities (D, K, h, w) of the network's slices, some at a time; a tensor is that, too."""

    def __getitem__(self, index: slice, /) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class SliceGrid:
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

    def between(self, probabilities: Scores, start: int, stop: int) -> Tensor:
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
        rows, columns = self.resampling(*probabilities.shape[-2:])
        if rows is not None:
            probabilities = rows.to(probabilities) @ probabilities
        if columns is not None:  # matrix by matrix, so that a slice does not depend, by a rounding, on those beside it
            probabilities = probabilities @ columns.t().to(probabilities).expand(*probabilities.shape[:2], -1, -1)
        return probabilities

    def resampling(self, height: int, width: int) -> tuple[Tensor | None, Tensor | None]:
        """Matrices (H, height) and (W, width) from a grid over the padded slice to pixels; None where it has theirs."""
        steps = zip((height, width), self.padded, self.sampled, self.size[1:], strict=True)
        rows, columns = (None if len(set(lengths)) == 1 else _resampling(*lengths) for lengths in steps)
        return rows, columns

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

    def block(self, slices: npt.NDArray[_Scalar], start: int) -> tuple[Region, npt.NDArray[_Scalar]]:
        """Source pixels (..., n, H, W) of the crop's slices from `start` on: a block of file voxels and its values."""
        lead = slices.ndim - 3
        values = self.orientation.invert(np.moveaxis(slices, lead, lead + self.axis))
        return self.file_box(start, start + slices.shape[lead]), np.ascontiguousarray(values)

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
    restore: SliceGrid


def outline(
    geometry: Geometry, plan: Plan, start: tuple[int, int, int] | None = None, size: tuple[int, int, int] | None = None
) -> SliceGrid:
    """What becomes of a grid, or of a crop (D, H, W) of its slice stack."""
    canonical, orientation = geometry.canonical()
    in_plane = [a for a in range(3) if a != plan.axis]
    whole = canonical.shape[plan.axis], canonical.shape[in_plane[0]], canonical.shape[in_plane[1]]
    start, size = start or (0, 0, 0), size or whole
    spacing = [canonical.spacing[a] for a in in_plane]
    rows, columns = (max(1, round(n * s / t)) for n, s, t in zip(size[1:], spacing, plan.spacing, strict=True))
    height, width = (plan.multiple * -(-n // plan.multiple) for n in (rows, columns))
    joined = plan.joined(canonical.spacing[plan.axis])
    return SliceGrid(geometry, orientation, plan.axis, start, size, (rows, columns), (height, width), joined)


class PreparedSlices:
    """A volume's slices as the network sees them, each made of its voxels when it is asked for.

    Where a channel is scaled by percentiles of all its values, the whole volume is prepared at once, and kept.
    """

    def __init__(self, image: Volume | LazyImage, plan: Plan, name: str = "") -> None:
        """Raises InputError for another number of channels than the plan's."""
        stored = LazyImage.of(image)
        if len(stored.channels) != len(plan.channels):
            wanted = ", ".join(plan.channels)
            raise InputError(f"{name or 'image'}: {len(stored.channels)} channels where the model needs {wanted}")
        orientation = stored.geometry.canonical()[1]
        self._stacks = [
            replace(channel, stored=np.moveaxis(orientation.apply(channel.stored), plan.axis, 0))
            for channel in stored.channels
        ]
        self.restore = outline(stored.geometry, plan, *(_box(self._stacks) if plan.crop_to_nonzero else (None, None)))
        self._schemes = plan.intensities
        self._turned: int | None = None
        self._recent: dict[int, Tensor] = {}
        self._whole = None if all(scheme.kind == "ct" for scheme in plan.intensities) else self._normalised()
        self._fill = self._lowest() if self.restore.padded != self.restore.sampled else [0.0] * len(self._stacks)

    def __getitem__(self, places: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        """Slices (C, *n, H, W) with these places (*n)."""
        wanted = np.unique(places).tolist()
        self._recent = {d: self._recent[d] if d in self._recent else self._padded(d) for d in wanted}
        found = np.stack([self._recent[d].numpy() for d in wanted], 1)
        return found[:, np.searchsorted(wanted, places)]

    def mirrored(self, axis: int) -> PreparedSlices:
        """The same as if the volume's header stated a canonical axis in plane the other way round."""
        turned, restore = copy(self), self.restore
        place = restore.axes.index(axis)
        start = list(restore.start)
        start[place] = restore.stack[place] - restore.start[place] - restore.size[place]
        orientation = restore.orientation.mirrored(axis)
        turned.restore = replace(restore, orientation=orientation, start=(start[0], start[1], start[2]))
        turned._turned, turned._recent = place, {}
        return turned

    def case(self, name: str = "", labels: npt.NDArray[np.uint8] | None = None) -> Case:
        """All slices, and their labels (D, H, W) where there are."""
        image = np.empty((len(self._stacks), self.restore.depth, *self.restore.padded), np.float32)
        for d in range(self.restore.depth):
            image[:, d] = self._padded(d).numpy()
        return Case(name, image, labels, self.restore)

    def labels(self, labels: LabelMap) -> npt.NDArray[np.uint8]:
        """A label map on the volume's grid, cropped, resampled and padded as the image."""
        restore = self.restore
        window = tuple(slice(a, a + n) for a, n in zip(restore.start, restore.size, strict=True))
        stack = np.moveaxis(restore.orientation.apply(labels.data), restore.axis, 0)[window]
        middle = np.minimum(np.arange(restore.depth) * restore.joined + restore.joined // 2, restore.size[0] - 1)
        small = _resize_labels(stack[middle].copy(order="C"), restore.sampled)
        return np.pad(small, ((0, 0), *((0, n - m) for n, m in zip(restore.padded, restore.sampled, strict=True))))

    def _padded(self, d: int) -> Tensor:
        """One slice (C, H, W)."""
        slices = self._slice(d)
        if self._turned is not None:
            slices = slices.flip(self._turned)
        pad = [n - m for n, m in zip(self.restore.padded, self.restore.sampled, strict=True)]
        return torch.stack(
            [F.pad(x, (0, pad[1], 0, pad[0]), value=fill) for x, fill in zip(slices, self._fill, strict=True)]
        )

    def _slice(self, d: int) -> Tensor:
        """One slice (C, H, W) before padding."""
        if self._whole is not None:
            return self._whole[:, d]
        slices = self._resampled(d)
        return torch.stack([normalise(x, scheme) for x, scheme in zip(slices, self._schemes, strict=True)])

    def _resampled(self, d: int) -> Tensor:
        """One slice (C, H, W) in the file's units."""
        first, rows, columns = (slice(a, a + n) for a, n in zip(self.restore.start, self.restore.size, strict=True))
        start, stop = self.restore.own(d)
        # filled in, since torch refuses the negative strides that flips leave on axes of one voxel
        slices = np.empty((len(self._stacks), stop - start, *self.restore.size[1:]), np.float32)
        for n, channel in enumerate(self._stacks):
            slices[n] = channel.scale(channel.stored[first.start + start : first.start + stop, rows, columns])
        image = torch.from_numpy(slices)  # torch's pooling refuses volumes of fewer slices than are joined
        image = image.mean(1, keepdim=True) if self.restore.joined > 1 else image
        return _resize(image, self.restore.sampled)[:, 0]

    def _normalised(self) -> Tensor:
        """All slices (C, D, H, W) before padding."""
        whole = torch.empty(len(self._stacks), self.restore.depth, *self.restore.sampled)
        for d in range(self.restore.depth):
            whole[:, d] = self._resampled(d)
        return torch.stack([normalise(channel, scheme) for channel, scheme in zip(whole, self._schemes, strict=True)])

    def _lowest(self) -> list[float]:
        """Smallest value of each channel after normalisation; no more slices are looked at than that takes."""
        lowest = torch.full((len(self._stacks),), torch.inf)
        floors = torch.stack([_floor(scheme) for scheme in self._schemes])
        for d in range(self.restore.depth):
            lowest = torch.minimum(lowest, self._slice(d).amin((1, 2)))
            if (lowest <= floors).all():
                break
        return [float(value) for value in lowest]


def preprocess(volume: Volume | LazyImage, plan: Plan, labels: LabelMap | None = None, name: str = "") -> Case:
    """Volume (C, I, J, K) to a case.

    Raises:
        InputError: another number of channels than the plan's, or labels on another grid.
    """
    prepared = PreparedSlices(volume, plan, name)
    if labels is None:
        return prepared.case(name)
    volume.geometry.require_same_grid(labels.geometry, f"{name}: image and labels")
    return prepared.case(name, prepared.labels(labels))


def normalise(channel: Tensor, scheme: IntensityScheme) -> Tensor:
    """One channel (D, H, W) by its scheme; a constant channel becomes zero."""
    if scheme.kind == "ct":
        return (channel.clamp(scheme.low, scheme.high) - scheme.mean) / scheme.std
    low, high = np.percentile(channel.numpy(), [0.5, 99.5])
    clipped = channel.double().clamp(float(low), float(high))
    return ((clipped - clipped.mean()) / clipped.std(correction=0).clamp_min(1e-8)).float()


def _floor(scheme: IntensityScheme) -> Tensor:
    """Value that none is below after normalisation."""
    return normalise(torch.tensor(scheme.low), scheme) if scheme.kind == "ct" else torch.tensor(-torch.inf)


def with_neighbours(
    image: npt.NDArray[np.float32] | PreparedSlices, slices: Sequence[int] | npt.NDArray[np.intp], context: int
) -> npt.NDArray[np.float32]:
    """Slices (T, C * (2 * context + 1), H, W) of an image (C, D, H, W), each with its neighbours as channels."""
    depth = image.restore.depth if isinstance(image, PreparedSlices) else image.shape[1]
    wanted = np.clip(np.asarray(slices)[:, None] + np.arange(-context, context + 1), 0, depth - 1)
    chosen = image[wanted] if isinstance(image, PreparedSlices) else image[:, wanted]  # (C, T, 2n+1, H, W)
    return np.ascontiguousarray(np.moveaxis(chosen, 0, 2)).reshape(len(wanted), -1, *chosen.shape[-2:])


def _box(stacks: Sequence[Channel]) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Start and size (D, H, W) of the bounding box of nonzero voxels; everything when all are zero."""
    depth, height, width = stacks[0].stored.shape
    slices, plane = np.zeros(depth, bool), np.zeros((height, width), bool)
    for d in range(depth):
        nonzero = np.any([channel.scale(channel.stored[d]) != 0 for channel in stacks], 0)
        slices[d] = nonzero.any()
        plane |= nonzero
    start, size = [0, 0, 0], [depth, height, width]
    for axis, along in enumerate((slices, plane.any(1), plane.any(0))):
        found = np.flatnonzero(along)
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
