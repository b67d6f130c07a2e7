"""Inputs of the corrector: windows of a segmented volume around a prompt, and the maps computed on them.

All arrays are on the network's pixels (network slice d, row, column), or on cells of 2 x 2 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from s2vnet.model.corrector import CELL, WINDOW

NEAR, WIDE = 1.5, 8.0
"""Standard deviations in cells of the Gaussians around prompts."""
_LOG_ODDS_SCALE, _MIN_PROBABILITY = 4.0, 1e-4
_MAX_CONTRAST = 4.0

Pixels = npt.NDArray[np.intp]
"""Network slice, row and column (N, 3)."""
Block = tuple[slice, slice, slice]
"""Ranges of slices, rows and columns."""


class PixelLabels(Protocol):
    """Labels (D, H, W) of a volume's pixels, read by ranges of slices; a tensor is one."""

    @property
    def shape(self) -> Sequence[int]:
        """Slices, rows and columns."""

    def __getitem__(self, index: slice, /) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class SegmentedVolume:
    """What the corrector knows about a volume."""

    image: Tensor
    """(D, H, W) normalised intensity, mean of the channels."""
    probabilities: Tensor
    """(D, K, h, w) class probabilities on the mask grid."""
    features: Tensor
    """(D, M, h, w) mask features."""
    slice_distance: float
    """Distance of two network slices, in pixels."""
    pixel_size: float = 1.0
    """Mean height and width of a pixel in mm."""


class Window(NamedTuple):
    """Part of a volume; it may reach beyond the volume's ends."""

    start: tuple[int, int, int]
    """First slice, row and column; row and column are multiples of 4."""
    zoom: int
    """Pixels of the volume per pixel of the window."""
    size: tuple[int, int, int] = WINDOW

    @classmethod
    def around(cls, centre: Sequence[float], zoom: int, size: tuple[int, int, int] = WINDOW) -> Window:
        """Window whose middle is at a slice, row and column."""
        depth, height, width = size
        d, y, x = (float(v) for v in centre)
        rows, columns = (4 * round((v - n * zoom / 2) / 4) for v, n in ((y, height), (x, width)))
        return cls((round(d - depth / 2), rows, columns), zoom, size)

    @property
    def extent(self) -> tuple[int, int, int]:
        """Slices, rows and columns in the volume."""
        return self.size[0], self.size[1] * self.zoom, self.size[2] * self.zoom

    def overlap(self, shape: Sequence[int], stride: int = 1) -> tuple[Block, Block]:
        """Part of the window that lies in a volume.

        Args:
            shape: of the volume (D, ..., H / stride, W / stride).
            stride: pixels per row and column of the volume.

        Returns:
            The part's slices, rows and columns, counted in the window (before zooming) and in the volume.
        """
        strides = 1, stride, stride
        starts = [a // n for a, n in zip(self.start, strides, strict=True)]
        sizes = [k // n for k, n in zip(self.extent, strides, strict=True)]
        limits = shape[0], shape[-2], shape[-1]
        low = [min(max(0, a), n) for a, n in zip(starts, limits, strict=True)]
        high = [max(b, min(n, a + k)) for a, k, n, b in zip(starts, sizes, limits, low, strict=True)]
        d, y, x = (slice(a, b) for a, b in zip(low, high, strict=True))
        inside = (slice(s.start - a, s.stop - a) for s, a in zip((d, y, x), starts, strict=True))
        return (next(inside), next(inside), next(inside)), (d, y, x)

    def crop(self, maps: Tensor | PixelLabels, stride: int = 1, fill: float = 0) -> Tensor:
        """Part of maps (D, ..., H / stride, W / stride), padded with `fill`, before zooming."""
        inside, (d, rows, columns) = self.overlap(maps.shape, stride)
        part = maps[d][..., rows, columns]
        depth, height, width = self.extent
        size = depth, height // stride, width // stride
        if tuple(part.shape[i] for i in (0, -2, -1)) == size:
            return part
        whole = torch.full((size[0], *part.shape[1:-2], *size[1:]), fill, dtype=part.dtype)
        whole[inside[0], ..., inside[1], inside[2]] = part
        return whole

    def pool(self, maps: Tensor) -> Tensor:
        """Average maps (D, ..., H, W) over the pixels of the volume that a pixel of the window covers."""
        if self.zoom == 1:
            return maps.float()
        lead = maps.shape[:-2]
        pooled: Tensor = F.avg_pool2d(maps.float().flatten(0, -3)[:, None], self.zoom)[:, 0].unflatten(0, lead)
        return pooled

    def enlarge(self, maps: Tensor) -> Tensor:
        """Interpolate maps (D, H, W) of the window to the pixels of the volume."""
        if self.zoom == 1:
            return maps
        return F.interpolate(maps[:, None], scale_factor=self.zoom, mode="bilinear")[:, 0]

    def to_window(self, pixels: Pixels) -> Pixels:
        """Slice, row and column in the window (N', 3), of those pixels of the volume (N, 3) that lie inside."""
        inside = pixels - np.array(self.start)
        inside = inside[((inside >= 0) & (inside < np.array(self.extent))).all(1)]
        in_window: Pixels = inside // np.array([1, self.zoom, self.zoom])
        return in_window


class WindowPrompt(NamedTuple):
    """Prompt and the earlier ones, with pixels (N, 3) of the volume."""

    pixels: Pixels
    """Pixels of the prompt, which ask for the class (or deny it)."""
    positive: bool
    class_id: int | None
    """Class of the network; None for an added class, of which the network has no probabilities."""
    label: int
    """Label value of the prompt's class."""
    same: Pixels
    """Pixels of earlier prompts that say what this prompt says (the class, or not the class)."""
    other: Pixels
    """Pixels of earlier prompts that say the contrary."""


class WindowMaps(NamedTuple):
    """Inputs of :class:`s2vnet.model.corrector.Corrector` for one window."""

    pixels: Tensor
    """(D, P, H, W)."""
    cells: Tensor
    """(D, C, H / 2, W / 2)."""
    eligible: Tensor
    """(D, H', W') pixels of the volume that may change, bool, before zooming."""


def window_maps(volume: SegmentedVolume, labels: PixelLabels, prompt: WindowPrompt, window: Window) -> WindowMaps:
    """Compute the corrector's input maps.

    Args:
        volume: image, probabilities and features of the volume.
        labels: (D, H, W) present label of each pixel; slices of the window and of the prompt are read.
        prompt: the prompt; its class probabilities, features and intensity are read at its pixels, also outside of
            the window.
        window: part of the volume.
    """
    image = window.crop(volume.image, fill=float("-inf")).float()
    valid = image > float("-inf")
    image = torch.where(valid, image, 0)
    present = window.crop(labels)
    own = (present == prompt.label) & valid
    eligible = (own if not prompt.positive else ~own) & valid
    clicked = _most_frequent_label(labels, prompt.pixels)
    same_label = (present == clicked) & eligible
    other = (present != 0) & (present != clicked) & ~own & valid
    intensity = _mean_intensity(volume.image, prompt.pixels)
    contrast = torch.where(valid, (image - intensity).clamp(-_MAX_CONTRAST, _MAX_CONTRAST), 0)
    pixels = torch.stack([window.pool(m) for m in (image, contrast, own, eligible, same_label, other)], 1)
    cells = _cell_maps(volume, prompt, window, valid)
    return WindowMaps(pixels, cells, eligible)


def _most_frequent_label(labels: PixelLabels, pixels: Pixels) -> int:
    """Label that most of some pixels have; the smallest of equally frequent ones."""
    d, y, x = pixels.T
    first = int(d.min())
    found = labels[first : int(d.max()) + 1].numpy()[d - first, y, x]
    return int(np.bincount(found).argmax())


def _cell_maps(volume: SegmentedVolume, prompt: WindowPrompt, window: Window, valid: Tensor) -> Tensor:
    """Maps (D, C, h, w) of :data:`s2vnet.model.corrector.CELL_MAPS`."""
    stride = volume.image.shape[-1] // volume.probabilities.shape[-1]
    at = _unique_cells(prompt.pixels, stride)
    probabilities = _to_cells(window.crop(volume.probabilities, stride), window, stride)
    features = _to_cells(window.crop(volume.features, stride), window, stride)
    prompted_probabilities = volume.probabilities[at[0], :, at[1], at[2]].float().mean(0)
    prompted_features = F.normalize(_around(volume.features, at), dim=0)
    class_probability = torch.zeros_like(probabilities[:, 0])
    if prompt.class_id is not None:
        class_probability = probabilities[:, prompt.class_id]
    affinity = torch.einsum("dkhw,k->dhw", probabilities.clamp_min(0).sqrt(), prompted_probabilities.sqrt())
    similarity = torch.einsum("dchw,c->dhw", F.normalize(features, dim=1), prompted_features)
    distance = volume.slice_distance / (window.zoom * CELL)
    near, wide = _gaussians(prompt.pixels, window, distance, (NEAR, WIDE))
    (same,) = _gaussians(prompt.same, window, distance, (NEAR,))
    (other,) = _gaussians(prompt.other, window, distance, (NEAR,))
    inside = F.avg_pool2d(valid.float(), CELL * window.zoom)

    def constant(value: float) -> Tensor:
        return torch.full_like(near, value)

    return torch.stack(
        [
            _log_odds(class_probability),
            affinity,
            _log_odds(probabilities[:, 0]),
            similarity,
            near,
            wide,
            same,
            other,
            constant(float(prompt.positive)),
            inside,
            constant(float(window.zoom - 1)),
            constant(float(np.log(2 * distance))),
        ],
        1,
    )


def _to_cells(maps: Tensor, window: Window, stride: int) -> Tensor:
    """Maps (D, c, h, w) on the mask grid, averaged over or repeated on the window's cells."""
    factor = CELL * window.zoom / stride
    if factor >= 1:
        return F.avg_pool2d(maps.float(), int(factor)) if factor > 1 else maps.float()
    return F.interpolate(maps.float(), scale_factor=1 / factor, mode="nearest")


def _unique_cells(pixels: Pixels, stride: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cells of the mask grid that hold pixels."""
    cells = np.unique(pixels // np.array([1, stride, stride]), axis=0)
    d, y, x = torch.from_numpy(cells.T)
    return d, y, x


def _around(features: Tensor, at: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Mean (c,) of unit-length features (D, c, h, w) over cells and their in-plane neighbours."""
    d, y, x = at
    offsets = torch.arange(-1, 2)
    rows = (y[:, None, None] + offsets[:, None]).clamp(0, features.shape[-2] - 1).expand(-1, 3, 3)
    columns = (x[:, None, None] + offsets).clamp(0, features.shape[-1] - 1).expand(-1, 3, 3)
    return F.normalize(features[d[:, None, None], :, rows, columns].float(), dim=-1).mean((0, 1, 2))


def _mean_intensity(image: Tensor, pixels: Pixels) -> float:
    """Mean of an image (D, H, W) over pixels and their in-plane neighbours."""
    d, y, x = torch.from_numpy(pixels.T)
    offsets = torch.arange(-1, 2)
    rows = (y[:, None, None] + offsets[:, None]).clamp(0, image.shape[1] - 1)
    columns = (x[:, None, None] + offsets).clamp(0, image.shape[2] - 1)
    return float(image[d[:, None, None], rows, columns].float().mean())


def _gaussians(pixels: Pixels, window: Window, distance: float, widths: Sequence[float]) -> list[Tensor]:
    """Gaussians (D, h, w) of the distance in cells to the nearest of some pixels; zero without any."""
    depth, height, width = window.size
    shape = depth, height // CELL, width // CELL
    inside = window.to_window(pixels) // np.array([1, CELL, CELL]) if len(pixels) else pixels
    if not len(inside):
        return [torch.zeros(shape) for _ in widths]
    empty = np.ones(shape, bool)
    empty[tuple(inside.T)] = False
    away = torch.from_numpy(ndimage.distance_transform_edt(empty, sampling=(distance, 1, 1))).float()
    return [torch.exp(-((away / sigma) ** 2) / 2) for sigma in widths]


def _log_odds(probability: Tensor) -> Tensor:
    return torch.logit(probability, _MIN_PROBABILITY) / _LOG_ODDS_SCALE
