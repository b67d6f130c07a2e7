"""Preprocessing of a volume: from voxels to the network's slices, in training and inference alike.

File axes (I, J, K) -> closest RAS axes -> slices (D, H, W) across the plan's plane -> crop -> in-plane resampling
-> intensity normalisation -> padding. Slices that lie closer together than in training are averaged in slabs.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from s2vnet.data.plan import IntensityScheme, Plan
from s2vnet.data.slice_grid import SliceGrid, resize_slices
from s2vnet.errors import InputError
from s2vnet.io.geometry import LabelMap, Shape, Volume
from s2vnet.io.lazy_image import Channel, LazyImage, as_lazy_image


@dataclass(frozen=True, eq=False)
class Case:
    """A preprocessed volume."""

    name: str
    image: npt.NDArray[np.float32]
    """(C, D, H, W) network slices."""
    labels: npt.NDArray[np.uint8] | None
    """(D, H, W), resampled and padded as the image."""
    grid: SliceGrid


class PreparedSlices:
    """Network slices of a volume, each computed from its voxels on access.

    Where a channel is normalised by percentiles of all its values, the whole volume is computed at once and kept.
    """

    def __init__(self, image: Volume | LazyImage, plan: Plan, name: str = "") -> None:
        """Prepare access to the slices. Raises InputError for another number of channels than the plan's."""
        lazy = as_lazy_image(image)
        if len(lazy.channels) != len(plan.channels):
            wanted = ", ".join(plan.channels)
            raise InputError(f"{name or 'image'}: {len(lazy.channels)} channels where the model needs {wanted}")
        orientation = lazy.geometry.canonical()[1]
        self._stacks = [
            replace(channel, stored=np.moveaxis(orientation.apply(channel.stored), plan.axis, 0))
            for channel in lazy.channels
        ]
        crop = _nonzero_box(self._stacks) if plan.crop_to_nonzero else (None, None)
        self.grid = SliceGrid.from_plan(lazy.geometry, plan, *crop)
        self._schemes = plan.intensities
        self._flipped_axis: int | None = None
        self._recent: dict[int, Tensor] = {}
        self._whole = None if all(scheme.kind == "ct" for scheme in plan.intensities) else self._normalised_volume()
        needs_padding = self.grid.padded != self.grid.sampled
        self._fill = self._channel_minima() if needs_padding else [0.0] * len(self._stacks)

    def __getitem__(self, indices: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        """Slices (C, *n, H, W) with these indices (*n); those of the last call are cached."""
        wanted = np.unique(indices).tolist()
        self._recent = {d: self._recent[d] if d in self._recent else self._padded_slice(d) for d in wanted}
        slices = np.stack([self._recent[d].numpy() for d in wanted], 1)
        return slices[:, np.searchsorted(wanted, indices)]

    def mirror(self, axis: int) -> PreparedSlices:
        """Slices of the same volume with an in-plane canonical axis flipped; nothing is copied."""
        flipped = copy(self)
        flipped.grid = self.grid.mirror(axis)
        flipped._flipped_axis, flipped._recent = self.grid.axes.index(axis), {}
        return flipped

    def case(self, name: str = "", labels: npt.NDArray[np.uint8] | None = None) -> Case:
        """Case of all slices, with labels (D, H, W) where given."""
        image = np.empty((len(self._stacks), self.grid.depth, *self.grid.padded), np.float32)
        for d in range(self.grid.depth):
            image[:, d] = self._padded_slice(d).numpy()
        return Case(name, image, labels, self.grid)

    def prepare_labels(self, labels: LabelMap) -> npt.NDArray[np.uint8]:
        """Labels (D, H, W), cropped, resampled and padded as the image, of a label map on the volume's grid."""
        grid = self.grid
        stack = np.moveaxis(grid.orientation.apply(labels.data), grid.axis, 0)[grid.crop]
        small = _resize_labels(stack[grid.slab_centres()].copy(order="C"), grid.sampled)
        return np.pad(small, ((0, 0), *((0, n - m) for n, m in zip(grid.padded, grid.sampled, strict=True))))

    def _padded_slice(self, d: int) -> Tensor:
        """Slice (C, H, W) as the network takes it."""
        slices = self._normalised_slice(d)
        if self._flipped_axis is not None:
            slices = slices.flip(self._flipped_axis)
        pad = [n - m for n, m in zip(self.grid.padded, self.grid.sampled, strict=True)]
        return torch.stack(
            [F.pad(x, (0, pad[1], 0, pad[0]), value=fill) for x, fill in zip(slices, self._fill, strict=True)]
        )

    def _normalised_slice(self, d: int) -> Tensor:
        """Slice (C, H', W') before padding."""
        if self._whole is not None:
            return self._whole[:, d]
        slices = self._resampled_slice(d)
        return torch.stack([normalise(x, scheme) for x, scheme in zip(slices, self._schemes, strict=True)])

    def _resampled_slice(self, d: int) -> Tensor:
        """Slice (C, H', W') in the file's units."""
        depth, rows, columns = self.grid.crop
        start, stop = self.grid.slab(d)
        # copied into a new array, since torch refuses the negative strides that flips leave on axes of one voxel
        slices = np.empty((len(self._stacks), stop - start, *self.grid.size[1:]), np.float32)
        for n, channel in enumerate(self._stacks):
            slices[n] = channel.scale(channel.stored[depth.start + start : depth.start + stop, rows, columns])
        image = torch.from_numpy(slices)  # not torch's pooling, which refuses volumes of fewer slices than a slab has
        image = image.mean(1, keepdim=True) if self.grid.slab_size > 1 else image
        return resize_slices(image, self.grid.sampled)[:, 0]

    def _normalised_volume(self) -> Tensor:
        """All slices (C, D, H', W') before padding."""
        whole = torch.empty(len(self._stacks), self.grid.depth, *self.grid.sampled)
        for d in range(self.grid.depth):
            whole[:, d] = self._resampled_slice(d)
        return torch.stack([normalise(channel, scheme) for channel, scheme in zip(whole, self._schemes, strict=True)])

    def _channel_minima(self) -> list[float]:
        """Smallest value of each channel after normalisation; stops once all have reached their lower bound."""
        minima = torch.full((len(self._stacks),), torch.inf)
        bounds = torch.stack([_lower_bound(scheme) for scheme in self._schemes])
        for d in range(self.grid.depth):
            minima = torch.minimum(minima, self._normalised_slice(d).amin((1, 2)))
            if (minima <= bounds).all():
                break
        return [float(value) for value in minima]


def preprocess(volume: Volume | LazyImage, plan: Plan, labels: LabelMap | None = None, name: str = "") -> Case:
    """Preprocess a volume (C, I, J, K), and its labels where given.

    Raises:
        InputError: another number of channels than the plan's, or labels on another grid.
    """
    prepared = PreparedSlices(volume, plan, name)
    if labels is None:
        return prepared.case(name)
    volume.geometry.require_same_grid(labels.geometry, f"{name}: image and labels")
    return prepared.case(name, prepared.prepare_labels(labels))


def normalise(channel: Tensor, scheme: IntensityScheme) -> Tensor:
    """Normalise a channel (D, H, W) by its scheme; a constant channel becomes zero."""
    if scheme.kind == "ct":
        return (channel.clamp(scheme.low, scheme.high) - scheme.mean) / scheme.std
    low, high = np.percentile(channel.numpy(), [0.5, 99.5])
    clipped = channel.double().clamp(float(low), float(high))
    return ((clipped - clipped.mean()) / clipped.std(correction=0).clamp_min(1e-8)).float()


def _lower_bound(scheme: IntensityScheme) -> Tensor:
    """Lower bound of values after normalisation."""
    return normalise(torch.tensor(scheme.low), scheme) if scheme.kind == "ct" else torch.tensor(-torch.inf)


def with_neighbours(
    image: npt.NDArray[np.float32] | PreparedSlices, slices: Sequence[int] | npt.NDArray[np.intp], context: int
) -> npt.NDArray[np.float32]:
    """Stack slices with their neighbours as channels, the outermost slice repeated beyond the ends.

    Args:
        image: (C, D, H, W).
        slices: indices (T,) along D.
        context: neighbours on either side.

    Returns:
        (T, C * (2 * context + 1), H, W).
    """
    depth = image.grid.depth if isinstance(image, PreparedSlices) else image.shape[1]
    wanted = np.clip(np.asarray(slices)[:, None] + np.arange(-context, context + 1), 0, depth - 1)
    stacked = image[wanted] if isinstance(image, PreparedSlices) else image[:, wanted]  # (C, T, 2n+1, H, W)
    return np.ascontiguousarray(np.moveaxis(stacked, 0, 2)).reshape(len(wanted), -1, *stacked.shape[-2:])


def _nonzero_box(stacks: Sequence[Channel]) -> tuple[Shape, Shape]:
    """Start and size (D, H, W) of the bounding box of nonzero voxels; the whole volume where all are zero."""
    depth, height, width = stacks[0].stored.shape
    slices, plane = np.zeros(depth, bool), np.zeros((height, width), bool)
    for d in range(depth):
        nonzero = np.any([channel.scale(channel.stored[d]) != 0 for channel in stacks], 0)
        slices[d] = nonzero.any()
        plane |= nonzero
    start, size = [0, 0, 0], [depth, height, width]
    for axis, along in enumerate((slices, plane.any(1), plane.any(0))):
        indices = np.flatnonzero(along)
        if len(indices):
            start[axis], size[axis] = int(indices[0]), int(indices[-1] - indices[0] + 1)
    return (start[0], start[1], start[2]), (size[0], size[1], size[2])


def _resize_labels(slices: npt.NDArray[np.generic], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Label slices (D, h, w) resampled to the nearest label."""
    small = slices.astype(np.uint8)
    if small.shape[1:] == size:
        return small
    interpolated = F.interpolate(torch.from_numpy(small)[None], size=size, mode="nearest-exact")[0]
    resized: npt.NDArray[np.uint8] = interpolated.numpy()
    return resized
