"""Change of a volume's labels that a prompt asks for, found by the corrector window by window.

The first window lies around the prompt. Where the change reaches its rows or columns' ends it is computed again at
half the resolution; where it reaches the first or last slice, it is followed into further windows, whose prompt is the
change on a slice that both have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from s2vnet.inference.correction_maps import (
    Block,
    PixelLabels,
    Pixels,
    SegmentedVolume,
    Window,
    WindowPrompt,
    window_maps,
)
from s2vnet.model.corrector import WINDOW
from s2vnet.utils.components import bounding_box, components_at

MAX_WINDOWS = 8
"""Windows that a change is followed into, in each direction."""
EDGE_PIXELS = 8
"""Pixels on the end of a window from which on a change is followed beyond it."""
OVERLAP = 2
"""Slices that a window has in common with the one that it continues."""
AGREEMENT = 2.0
"""Logit of pixels beside the change that have the wanted label already."""
NO_CHANGE = -20.0
"""Logit of pixels that no window covers."""

CorrectorFunction = Callable[[Tensor, Tensor], Tensor]
"""Logits (1, D, H, W) of maps (1, D, P, H, W) and (1, D, C, h, w): a network or its exported graph."""


@dataclass(frozen=True)
class ChangeLimits:
    """What the corrector's logits have to exceed for a pixel to change (docs/decisions/016)."""

    threshold: float = -0.4
    near_mm: float = 15.0
    """Distance from a prompt on a class of the network beyond which a logit has to be larger, up to
    :attr:`far_penalty` at :attr:`reach_mm`."""
    reach_mm: float = 40.0
    """Distance from a prompt on a class of the network beyond which nothing changes."""
    far_penalty: float = 2.0
    thin_pixels: float = 4.0
    """In-plane thickness at a prompt on a class of the network below which all logits have to be larger, up to
    :attr:`thin_penalty` without thickness: thin changes are wrong more often."""
    thin_penalty: float = 2.5


class Part(NamedTuple):
    """Logits of a change on a block of the volume's pixels."""

    block: Block
    logits: Tensor
    """(D', H', W') on the block."""


class Change:
    """Logits of a change on the network's pixels, put together from overlapping parts; the largest logit counts."""

    def __init__(self, parts: Sequence[Part], size: tuple[int, int]) -> None:
        """Put parts together.

        Args:
            parts: at least one.
            size: rows and columns (H, W) of the volume.
        """
        ends = [
            (min(s.start for s in axis), max(s.stop for s in axis))
            for axis in zip(*(p.block for p in parts), strict=True)
        ]
        self.size = size
        self.start = tuple(low for low, _ in ends)
        """First slice, row and column of the block that all parts lie in."""
        self.logits = torch.full([high - low for low, high in ends], NO_CHANGE)
        """(D', H', W') on that block; positive where the label changes."""
        for part in parts:
            d, y, x = (slice(s.start - a, s.stop - a) for s, a in zip(part.block, self.start, strict=True))
            self.logits[d, y, x] = torch.maximum(self.logits[d, y, x], part.logits)

    def __getitem__(self, index: slice, /) -> Tensor:
        """Logits (n, 1, H, W) of network slices, as :meth:`SliceGrid.interpolate_slices` takes them."""
        planes = torch.full((index.stop - index.start, 1, *self.size), NO_CHANGE)
        depth, height, width = self.logits.shape
        d, y, x = self.start
        low, high = max(d, index.start), min(d + depth, index.stop)
        if low < high:
            planes[low - index.start : high - index.start, 0, y : y + height, x : x + width] = self.logits[
                low - d : high - d
            ]
        return planes

    def block(self) -> Block | None:
        """Slices, rows and columns of the pixels that change; None without any."""
        found = bounding_box((self.logits > 0).numpy())
        if found is None:
            return None
        d, y, x = (slice(s.start + a, s.stop + a) for s, a in zip(found, self.start, strict=True))
        return d, y, x


@torch.inference_mode()
def find_change(
    corrector: CorrectorFunction,
    volume: SegmentedVolume,
    labels: PixelLabels,
    prompt: WindowPrompt,
    on_window: Callable[[Callable[[], Change]], None] | None = None,
    limits: ChangeLimits = ChangeLimits(),
) -> Change:
    """Find the change that a prompt asks for.

    Args:
        corrector: the network.
        volume: image, probabilities and features.
        labels: (D, H, W) present labels.
        prompt: the prompt.
        on_window: called before each further window, with a function that returns the change so far; may raise to
            stop.
        limits: threshold and reach.
    """
    depth, height, width = volume.image.shape
    extent = np.ptp(prompt.pixels, axis=0) + 1
    centre = prompt.pixels.mean(0)
    # of the first prompt, also in windows that continue its change
    barrier = _Barrier(prompt.pixels.min(0), prompt.pixels.max(0), volume, limits, bounded=prompt.class_id is not None)

    def run(prompt: WindowPrompt, window: Window) -> _WindowChange:
        return _run(corrector, volume, labels, prompt, window, barrier)

    zoom = 2 if (extent[1:] > 0.8 * np.array(WINDOW[1:])).any() else 1
    found = run(prompt, Window.around(centre, zoom))
    if zoom == 1 and found.reaches_border():
        found = run(prompt, Window.around(centre, 2))
    if barrier.bounded:
        thinness = max(0.0, 1 - found.thickness(prompt.pixels) / limits.thin_pixels)
        barrier = replace(barrier, extra=thinness * limits.thin_penalty)
        found = found.lowered(barrier.extra, prompt.pixels)
    parts = [found.part(range(depth))]

    def change() -> Change:
        return Change([part for part in parts if part is not None], (height, width))

    for direction in (1, -1):
        current, number = found, 0
        while number < MAX_WINDOWS and (step := current.next_prompt(direction, depth)) is not None:
            if on_window is not None:
                on_window(change)
            pixels, slices = step
            middle = pixels.mean(0)
            middle[0] = pixels[0, 0] + direction * (WINDOW[0] / 2 - OVERLAP)
            current = run(prompt._replace(pixels=pixels), Window.around(middle, current.window.zoom))
            parts.append(current.part(slices))
            number += 1
    return change()


@dataclass(frozen=True, eq=False)
class _WindowChange:
    """Change within one window."""

    window: Window
    logits: Tensor
    """(D, H', W') on the volume's pixels."""
    change: npt.NDArray[np.bool_]
    """(D, H', W') pixels that change."""
    agreeing: npt.NDArray[np.bool_]
    """(D, H', W') pixels that have the wanted label already."""
    inside: Block
    """Part of the window that lies in the volume, counted in the window."""
    outside: Block
    """The same part, counted in the volume."""

    def reaches_border(self) -> bool:
        """Whether the change reaches rows or columns at which the window ends but the volume does not."""
        rows, columns = self.inside[1:]
        _, height, width = self.change.shape
        edges = [
            (rows.start == 0, self.change[:, :2]),
            (rows.stop == height, self.change[:, -2:]),
            (columns.start == 0, self.change[:, :, :2]),
            (columns.stop == width, self.change[:, :, -2:]),
        ]
        return any(within and edge.sum() >= EDGE_PIXELS for within, edge in edges)

    def thickness(self, pixels: Pixels) -> float:
        """Largest in-plane distance to a pixel that does not change, at or within two pixels of some pixels (N, 3)."""
        inside = pixels - np.array(self.window.start)
        largest = 0.0
        for d in np.unique(inside[:, 0]).tolist():
            near = np.zeros(self.change.shape[1:], bool)
            rows, columns = inside[inside[:, 0] == d, 1:].T
            near[rows, columns] = True
            near = ndimage.binary_dilation(near, np.ones((5, 5), bool))
            away = ndimage.distance_transform_edt(np.pad(self.change[d], 1))[1:-1, 1:-1]
            largest = max(largest, float(away[near].max()))
        return largest

    def lowered(self, amount: float, pixels: Pixels) -> _WindowChange:
        """Change with logits that are lower by an amount, still connected to pixels (N, 3)."""
        logits = (self.logits - amount).clamp_min(NO_CHANGE)
        change = connected_to((logits > 0).numpy(), pixels - np.array(self.window.start))
        return replace(self, logits=logits, change=change)

    def part(self, slices: range) -> Part | None:
        """Logits within the volume on those of its slices that are in `slices`; None where there are none."""
        d, y, x = self.outside
        first, last = max(d.start, slices.start), min(d.stop, slices.stop)
        if first >= last:
            return None
        source = slice(first - self.window.start[0], last - self.window.start[0]), *self.inside[1:]
        change, logits = self.change[source], self.logits[source]
        # pixels beside the change that are as it wants them already, so that enlarging leaves no gap between both
        beside = ndimage.binary_dilation(change, np.ones((1, 3, 3), bool)) & self.agreeing[source]
        values = torch.where(torch.from_numpy(change), logits, logits.clamp(max=-0.01))
        return Part((slice(first, last), y, x), torch.where(torch.from_numpy(beside), AGREEMENT, values))

    def next_prompt(self, direction: int, depth: int) -> tuple[Pixels, range] | None:
        """Pixels of the change from which the next window continues, and the slices that it fills."""
        d = self.inside[0]
        last = d.stop - 1 if direction > 0 else d.start
        beyond = last + self.window.start[0] + direction
        if not 0 <= beyond < depth or self.change[last].sum() < EDGE_PIXELS:
            return None
        plane = self.change[last - direction * (OVERLAP - 1)]
        if plane.sum() < EDGE_PIXELS:
            plane, shared = self.change[last], last
        else:
            shared = last - direction * (OVERLAP - 1)
        pixels = np.insert(np.argwhere(plane), 0, shared, axis=1) + np.array(self.window.start)
        slices = range(beyond, depth) if direction > 0 else range(beyond + 1)
        return pixels.astype(np.intp), slices


@dataclass(frozen=True, eq=False)
class _Barrier:
    """What the logits of a change have to exceed, by the distance from a prompt's bounding box."""

    low: Pixels
    """First slice, row and column of the prompt."""
    high: Pixels
    """Its last ones."""
    volume: SegmentedVolume
    limits: ChangeLimits
    bounded: bool
    """Whether the distance matters."""
    extra: float = 0.0
    """Added at all distances."""

    def at(self, window: Window) -> Tensor | float:
        """Barrier (D, H', W') on the volume's pixels in a window."""
        limits = self.limits
        if not self.bounded:
            return limits.threshold + self.extra
        squared = np.zeros((1, 1, 1), np.float32)
        for axis, step in enumerate((self.volume.slice_distance, 1.0, 1.0)):
            position = np.arange(window.extent[axis]) + window.start[axis]
            away = np.maximum(0, np.maximum(self.low[axis] - position, position - self.high[axis]))
            away = (away * step * self.volume.pixel_size) ** 2
            squared = squared + np.expand_dims(away.astype(np.float32), [a for a in range(3) if a != axis])
        distance = np.sqrt(squared)
        share = np.clip((distance - limits.near_mm) / (limits.reach_mm - limits.near_mm), 0, 1)
        barrier = np.where(
            distance > limits.reach_mm, np.inf, limits.threshold + self.extra + share * limits.far_penalty
        )
        return torch.from_numpy(barrier.astype(np.float32))


def _run(
    corrector: CorrectorFunction,
    volume: SegmentedVolume,
    labels: PixelLabels,
    prompt: WindowPrompt,
    window: Window,
    barrier: _Barrier,
) -> _WindowChange:
    """Change within a window."""
    maps = window_maps(volume, labels, prompt, window)
    logits = window.enlarge(corrector(maps.pixels[None], maps.cells[None])[0].float())
    logits = torch.where(maps.eligible, logits - barrier.at(window), NO_CHANGE).clamp_min(NO_CHANGE)
    change = connected_to((logits > 0).numpy(), prompt.pixels - np.array(window.start))
    return _WindowChange(window, logits, change, ~maps.eligible.numpy(), *window.overlap(labels.shape))


def connected_to(change: npt.NDArray[np.bool_], pixels: Pixels) -> npt.NDArray[np.bool_]:
    """6-connected parts of a change (D, H, W) that hold one of the pixels (N, 3) or an in-plane neighbour of it."""
    around = (pixels[:, None] + np.mgrid[0:1, -1:2, -1:2].reshape(3, -1).T).reshape(-1, 3)
    around = around[((around >= 0) & (around < np.array(change.shape))).all(1)]
    return components_at(change, around)
