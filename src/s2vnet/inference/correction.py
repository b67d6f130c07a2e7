"""Change of a volume's labels that a prompt asks for, found by the corrector window by window.

The first window lies around the prompt. Where the change reaches its rows or columns' ends it is computed again at
half the resolution; where it reaches the first or last slice, it is followed into further windows, whose prompt is the
change on a slice that both have in common.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from s2vnet.inference.correction_maps import (
    WINDOW,
    Pixels,
    SegmentedVolume,
    Window,
    WindowPrompt,
    window_maps,
)

MAX_WINDOWS = 8
"""Windows that a change is followed into, in each direction."""
EDGE_PIXELS = 8
"""Pixels on the end of a window from which on a change is followed beyond it."""
OVERLAP = 2
"""Slices that a window has in common with the one that it continues."""
NEAR_MM, REACH_MM = 15.0, 40.0
"""A change of a class of the network has to be the surer the farther it is from the prompt: beyond the first distance
its logit is lowered, by up to :data:`FAR_PENALTY` at the second; beyond that nothing changes."""
FAR_PENALTY = 2.0
THRESHOLD = -0.4
"""Logit from which a pixel changes (docs/decisions/016)."""
AGREEMENT = 2.0
"""Logit of pixels beside the change that have the wanted label already."""
NO_CHANGE = -20.0
"""Logit of pixels that no window covers."""

CorrectorFunction = Callable[[Tensor, Tensor], Tensor]
"""Logits (1, D, H, W) of maps (1, D, P, H, W) and (1, D, C, h, w): a network or its exported graph."""


@dataclass(frozen=True, eq=False)
class Change:
    """Logits of a change on network slices start..stop."""

    start: int
    logits: Tensor
    """(D', H, W) on the network's pixels; positive where the label changes."""

    def __getitem__(self, index: slice, /) -> Tensor:
        """Logits (n, 1, H, W) of network slices, as :meth:`SliceGrid.interpolate_slices` takes them."""
        stop = self.start + len(self.logits)
        slices = [
            self.logits[d - self.start] if self.start <= d < stop else torch.full_like(self.logits[0], NO_CHANGE)
            for d in range(index.start, index.stop)
        ]
        return torch.stack(slices)[:, None]

    @property
    def stop(self) -> int:
        """End of the slices."""
        return self.start + len(self.logits)


@torch.inference_mode()
def find_change(
    corrector: CorrectorFunction,
    volume: SegmentedVolume,
    labels: Tensor,
    prompt: WindowPrompt,
    on_window: Callable[[Change], None] | None = None,
) -> Change:
    """Find the change that a prompt asks for.

    Args:
        corrector: the network.
        volume: image, probabilities and features.
        labels: (D, H, W) present labels.
        prompt: the prompt.
        on_window: called with the change after each window.
    """
    depth, height, width = labels.shape
    extent = np.ptp(prompt.pixels, axis=0) + 1
    zoom = 2 if (extent[1:] > 0.8 * np.array(WINDOW[1:])).any() else 1
    centre = prompt.pixels.mean(0)
    box = (prompt.pixels.min(0), prompt.pixels.max(0)) if prompt.class_id is not None else None
    found = _run(corrector, volume, labels, prompt, Window.around(centre, zoom), box)
    if zoom == 1 and found.reaches_border():
        found = _run(corrector, volume, labels, prompt, Window.around(centre, 2), box)
    logits = torch.full((depth, height, width), NO_CHANGE)
    spans = [found.paste(logits, range(depth))]
    if on_window is not None:
        on_window(_as_change(logits, spans))
    for direction in (1, -1):
        current, number = found, 0
        while number < MAX_WINDOWS and (step := current.next_prompt(direction, depth)) is not None:
            pixels, slices = step
            following = prompt._replace(pixels=pixels)
            middle = pixels.mean(0)
            middle[0] = pixels[0, 0] + direction * (WINDOW[0] / 2 - OVERLAP)
            current = _run(corrector, volume, labels, following, Window.around(middle, current.window.zoom), box)
            spans.append(current.paste(logits, slices))
            if on_window is not None:
                on_window(_as_change(logits, spans))
            number += 1
    return _as_change(logits, spans)


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
    inside: tuple[slice, slice, slice]
    """Part of the window that lies in the volume."""

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

    def paste(self, logits: Tensor, slices: range) -> range:
        """Write the change into logits (D, H, W) of the volume, on `slices` only; return the slices written."""
        d, y, x = (range(s.start, s.stop) for s in self.inside)
        start = self.window.start
        first = max(d.start + start[0], slices.start)
        last = min(d.stop + start[0], slices.stop)
        if first >= last:
            return range(0)
        source = slice(first - start[0], last - start[0]), slice(y.start, y.stop), slice(x.start, x.stop)
        region = (
            slice(first, last),
            slice(y.start + start[1], y.stop + start[1]),
            slice(x.start + start[2], x.stop + start[2]),
        )
        change = self.change[source]
        # pixels beside the change that are as it wants them already, so that enlarging leaves no gap between both
        beside = ndimage.binary_dilation(change, np.ones((1, 3, 3), bool)) & self.agreeing[source]
        values = torch.where(torch.from_numpy(change), self.logits[source], self.logits[source].clamp(max=-0.01))
        values = torch.where(torch.from_numpy(beside), AGREEMENT, values)
        logits[region] = torch.maximum(logits[region], values)
        return range(first, last)

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


def _run(
    corrector: CorrectorFunction,
    volume: SegmentedVolume,
    labels: Tensor,
    prompt: WindowPrompt,
    window: Window,
    box: tuple[Pixels, Pixels] | None,
) -> _WindowChange:
    """Change within a window; `box` holds the first and last pixel of the prompt whose reach is bounded, if it is."""
    maps = window_maps(volume, labels, prompt, window)
    logits = corrector(maps.pixels[None], maps.cells[None])[0].float()
    if window.zoom > 1:
        logits = F.interpolate(logits[:, None], scale_factor=window.zoom, mode="bilinear")[:, 0]
    if box is not None:
        logits = logits - _distance_penalty(volume, window, box)
    logits = torch.where(maps.eligible, logits - THRESHOLD, NO_CHANGE)
    change = connected_to((logits > 0).numpy(), prompt.pixels - np.array(window.start))
    bounds = [(max(0, -a), min(k, n - a)) for a, k, n in zip(window.start, window.extent, labels.shape, strict=True)]
    d, y, x = (slice(a, b) for a, b in bounds)
    return _WindowChange(window, logits, change, ~maps.eligible.numpy(), (d, y, x))


def _distance_penalty(volume: SegmentedVolume, window: Window, box: tuple[Pixels, Pixels]) -> Tensor:
    """What is subtracted from the logits (D, H', W') of a window by their distance from a prompt's bounding box."""
    squared = np.zeros((1, 1, 1))
    for axis, step in enumerate((volume.slice_distance, 1.0, 1.0)):
        position = np.arange(window.extent[axis]) + window.start[axis]
        away = np.maximum(0, np.maximum(box[0][axis] - position, position - box[1][axis])) * step * volume.pixel_size
        squared = squared + np.expand_dims(away**2, [a for a in range(3) if a != axis])
    distance = np.sqrt(squared)
    share = np.clip((distance - NEAR_MM) / (REACH_MM - NEAR_MM), 0, 1)
    penalty = np.where(distance > REACH_MM, -NO_CHANGE, share * FAR_PENALTY)
    return torch.from_numpy(penalty.astype(np.float32))


def connected_to(change: npt.NDArray[np.bool_], pixels: Pixels) -> npt.NDArray[np.bool_]:
    """6-connected parts of a change (D, H, W) that hold one of the pixels (N, 3) or an in-plane neighbour of it."""
    components, _ = ndimage.label(change)
    around = (pixels[:, None] + np.mgrid[0:1, -1:2, -1:2].reshape(3, -1).T).reshape(-1, 3)
    around = around[((around >= 0) & (around < np.array(change.shape))).all(1)]
    values = np.unique(components[tuple(around.T)])
    connected: npt.NDArray[np.bool_] = np.isin(components, values[values > 0])
    return connected


def _as_change(logits: Tensor, spans: list[range]) -> Change:
    filled = [s for s in spans if len(s)]
    start, stop = min(s.start for s in filled), max(s.stop for s in filled)
    return Change(start, logits[start:stop])
