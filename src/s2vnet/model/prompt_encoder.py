"""PromptMaps prompts on the mask grid: every kind of prompt becomes the same four maps per class and slice.

Maps are soft and reach into neighbouring slices, since a correction is about a place in a volume, not in a slice.
A later prompt wins over an earlier one where they disagree.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

SIGMA_POINT = 2.2
"""Standard deviation in plane, in mask cells, of the map of a cell that stands for its surroundings."""
SIGMA_REGION = 0.5
"""The same of a cell of a region, which ends where it was drawn to end."""
SIGMA_SLICES = 1.5
"""Standard deviation along the slicing axis, in slices."""
WIDE_SIGMA_FACTOR = 3.0
"""How many times further a prompt's wide map reaches in plane: how near a prompt is, beyond the voxels it names."""
REACH_SLICES = 2
"""Slices on either side of a prompted one that it reaches; its wide map reaches further, as the network was trained."""


@dataclass(frozen=True)
class GridPrompt:
    """Prompted cells of one class: what a point, scribble, lasso, mask or box leaves on the mask grid."""

    class_id: int
    positive: bool
    cells: Tensor
    """(N, 3) float: slice, row and column on the mask grid (slice may be fractional)."""
    kind: Literal["point", "region", "box"] = "point"
    """Points and cells of a scribble stand for what lies around them too, those of a region (lasso, mask) do not."""


def rasterize_prompts(
    strokes: Iterable[GridPrompt],
    slices: Tensor,
    num_classes: int,
    size: tuple[int, int],
    reach: int = REACH_SLICES,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Prompt maps of some slices.

    Args:
        strokes: in the order they were given.
        slices: (T,) slice positions to rasterize_prompts, in slices.
        num_classes: K, background included.
        size: (h, w) of the mask grid.
        reach: slices on either side on which wide maps of points and scribbles are drawn.
        device: where to draw; strokes and slices are on the CPU, as they come from users.

    Returns:
        (T, K, 4, h, w) positive, negative and box maps in [0, 1], and a wide map in [-1, 1] of how near positive and
        (below zero) negative prompts are.
    """
    canvas = PromptRasterizer(slices, num_classes, size, reach, device)
    for stroke in strokes:
        canvas.add(stroke)
    return canvas.maps()


class PromptRasterizer:
    """Prompt maps of some slices as strokes are added; arguments as of :func:`rasterize_prompts`."""

    def __init__(
        self, slices: Tensor, num_classes: int, size: tuple[int, int], reach: int, device: torch.device | str
    ) -> None:
        self.slices, self.size, self.reach, self.device = slices, size, reach, device
        self.positive = torch.zeros(len(slices), num_classes, *size, device=device)
        self.negative, self.box, self.near, self.far = (torch.zeros_like(self.positive) for _ in range(4))

    def add(self, stroke: GridPrompt) -> None:
        """Draw one more stroke over those before it."""
        own = stroke.class_id
        if stroke.kind == "box":
            filled = _filled(stroke.cells, self.slices, self.size).to(self.device)
            self.box[:, own] = torch.maximum(self.box[:, own], filled)
            return
        region = stroke.kind == "region"
        sigma = SIGMA_REGION if region else SIGMA_POINT
        shape = self._falloff(stroke.cells, sigma, 0 if region else REACH_SLICES)
        target, other = (self.positive, self.negative) if stroke.positive else (self.negative, self.positive)
        wide = self.near if stroke.positive else self.far
        around = self._falloff(stroke.cells, WIDE_SIGMA_FACTOR * sigma, 0 if region else self.reach)
        wide[:, own] = torch.maximum(wide[:, own], around)
        target[:, own] = torch.maximum(target[:, own], shape)
        kept = 1 - shape
        other[:, own] = torch.minimum(other[:, own], kept)
        if stroke.positive:  # a voxel has one class: what is now this class is no longer prompted as another
            for rivals in (self.positive[:, :own], self.positive[:, own + 1 :]):
                torch.minimum(rivals, kept[:, None], out=rivals)

    def maps(self) -> Tensor:
        """(T, K, 4, h, w), as of :func:`rasterize_prompts`."""
        negative = torch.maximum(self.negative, _largest_rival(self.positive))
        return torch.stack([self.positive, negative, self.box, self.near - self.far], 2)

    def _falloff(self, cells: Tensor, sigma: float, reach: int) -> Tensor:
        """(T, h, w) Gaussian fall-off around cells, `sigma` cells wide; exactly 1 on them, 0 beyond `reach` slices."""
        along_sigma = max(SIGMA_SLICES, reach / 2)
        out = torch.zeros(len(self.slices), *self.size, device=self.device)
        y, x = (torch.arange(n, dtype=torch.float32, device=self.device) for n in self.size)
        for d in cells[:, 0].unique():
            here = cells[cells[:, 0] == d].to(self.device)
            near = ((self.slices - d).abs() <= reach).nonzero()[:, 0]
            if not len(near):
                continue
            plane = torch.zeros(self.size, device=self.device)
            for chunk in here.split(512):
                rows = torch.exp(-((y[None] - chunk[:, 1:2]) ** 2) / (2 * sigma**2))
                columns = torch.exp(-((x[None] - chunk[:, 2:3]) ** 2) / (2 * sigma**2))
                plane = torch.maximum(plane, (rows[:, :, None] * columns[:, None, :]).amax(0))
            along = torch.exp(-((self.slices[near] - d) ** 2) / (2 * along_sigma**2)).to(self.device)
            places = near.to(self.device)
            out[places] = torch.maximum(out[places], along[:, None, None] * plane)
        return out


class PromptMaps(Mapping[int, Tensor]):
    """Prompt maps (K, 4, h, w) of the slices of a volume that strokes touch.

    Held are those of the classes that have strokes, and one for all others, whose maps are alike.
    """

    def __init__(
        self,
        strokes: Sequence[GridPrompt],
        depth: int,
        num_classes: int,
        size: tuple[int, int],
        reach: int = REACH_SLICES,
    ) -> None:
        """Args: as of :func:`rasterize_prompts`, for a volume of `depth` slices."""
        classes = sorted({stroke.class_id for stroke in strokes})
        own = [replace(stroke, class_id=classes.index(stroke.class_id)) for stroke in strokes]
        slices = affected_slices(strokes, depth, reach)
        rows = max(2, len(classes) + 1)  # a class has a rival
        maps = rasterize_prompts(own, torch.tensor(slices, dtype=torch.float32), rows, size, reach)
        self._maps = dict(zip(slices, maps, strict=True))
        self._rows = [classes.index(k) if k in classes else len(classes) for k in range(num_classes)]

    def __getitem__(self, d: int) -> Tensor:
        maps: Tensor = self._maps[d][self._rows]
        return maps

    def __iter__(self) -> Iterator[int]:
        return iter(self._maps)

    def __len__(self) -> int:
        return len(self._maps)

    def signature(self, d: int) -> bytes:
        """Bytes that are others for other maps of a slice."""
        content: bytes = self._maps[d].numpy().tobytes()
        return bytes(self._rows) + content


def affected_slices(strokes: Iterable[GridPrompt], depth: int, reach: int = REACH_SLICES) -> list[int]:
    """Slices of a volume of `depth` slices whose maps the strokes touch, in rising order; `reach` as for drawing."""
    found: set[int] = set()
    for stroke in strokes:
        places = stroke.cells[:, 0]
        if stroke.kind == "box":  # two corners stand for all slices between them
            places = torch.arange(math.ceil(places.min()), math.floor(places.max()) + 1)
        far = reach if stroke.kind == "point" else 0
        for d in places.round().int().unique().tolist():
            found.update(range(max(0, d - far), min(depth, d + far + 1)))
    return sorted(found)


def _filled(cells: Tensor, slices: Tensor, size: tuple[int, int]) -> Tensor:
    """(T, h, w) 1 inside the bounding box of the cells (two corners are enough)."""
    low, high = cells.amin(0), cells.amax(0)
    y, x = torch.arange(size[0]), torch.arange(size[1])
    inside_d = (slices >= low[0]) & (slices <= high[0])
    inside_y, inside_x = (y >= low[1]) & (y <= high[1]), (x >= low[2]) & (x <= high[2])
    return (inside_d[:, None, None] & inside_y[:, None] & inside_x[None]).float()


def _largest_rival(positive: Tensor) -> Tensor:
    """For every class, the largest positive map among the other classes; positive is (T, K, h, w)."""
    top = positive.topk(2, dim=1).values
    best, second = top[:, :1], top[:, 1:]
    return torch.where(positive == best, second, best)
