"""Rasterization of prompts on the mask grid: every kind of prompt becomes the same four maps per class and slice.

Maps are soft and extend into neighbouring slices, since a correction concerns a location in the volume. Later prompts
override earlier ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

PROMPT_MAPS = 4
"""Maps per class and slice: positive, negative, box, wide."""
SIGMA_POINT = 2.2
"""In-plane standard deviation, in mask cells, for cells of points and scribbles."""
SIGMA_REGION = 0.5
"""In-plane standard deviation for cells of regions (lasso, mask), whose outlines are exact."""
SIGMA_SLICES = 1.5
"""Standard deviation along the slicing axis, in slices."""
WIDE_SIGMA_FACTOR = 3.0
"""Ratio of the in-plane standard deviations of the wide map and the positive and negative maps."""
REACH_SLICES = 2
"""Slices on either side of a point or scribble on which it is drawn; wide maps use ``ModelConfig.prompt_reach``."""


@dataclass(frozen=True)
class GridPrompt:
    """A prompt for one class as cells of the mask grid."""

    class_id: int
    positive: bool
    cells: Tensor
    """(N, 3) float: slice, row and column on the mask grid (slice may be fractional)."""
    kind: Literal["point", "region", "box"] = "point"
    """Points and scribbles also cover their surroundings, regions (lasso, mask) do not."""


def rasterize_prompts(
    prompts: Iterable[GridPrompt],
    slices: Tensor,
    num_classes: int,
    size: tuple[int, int],
    reach: int = REACH_SLICES,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Rasterize prompts on some slices.

    Args:
        prompts: prompts in the order they were given.
        slices: (T,) positions of the slices, in slices.
        num_classes: K, background included.
        size: (h, w) of the mask grid.
        reach: slices on either side of points and scribbles on which their wide maps are drawn.
        device: device of the maps; prompts and slices are on the CPU.

    Returns:
        (T, K, 4, h, w) positive, negative and box maps in [0, 1], and a wide map in [-1, 1]: proximity of positive
        prompts minus that of negative ones.
    """
    rasterizer = PromptRasterizer(slices, num_classes, size, reach, device)
    for prompt in prompts:
        rasterizer.add(prompt)
    return rasterizer.maps()


class PromptRasterizer:
    """Incremental rasterizer; arguments as of :func:`rasterize_prompts`."""

    def __init__(
        self, slices: Tensor, num_classes: int, size: tuple[int, int], reach: int, device: torch.device | str
    ) -> None:
        self.slices, self.size, self.reach, self.device = slices, size, reach, device
        self.positive = torch.zeros(len(slices), num_classes, *size, device=device)
        self.negative, self.box, self.wide_positive, self.wide_negative = (
            torch.zeros_like(self.positive) for _ in range(4)
        )

    def add(self, prompt: GridPrompt) -> None:
        """Add a prompt, which overrides earlier ones."""
        class_id = prompt.class_id
        if prompt.kind == "box":
            box = _box_map(prompt.cells, self.slices, self.size).to(self.device)
            self.box[:, class_id] = torch.maximum(self.box[:, class_id], box)
            return
        region = prompt.kind == "region"
        sigma = SIGMA_REGION if region else SIGMA_POINT
        drawn = self._falloff(prompt.cells, sigma, 0 if region else REACH_SLICES)
        target, other = (self.positive, self.negative) if prompt.positive else (self.negative, self.positive)
        wide = self.wide_positive if prompt.positive else self.wide_negative
        proximity = self._falloff(prompt.cells, WIDE_SIGMA_FACTOR * sigma, 0 if region else self.reach)
        wide[:, class_id] = torch.maximum(wide[:, class_id], proximity)
        target[:, class_id] = torch.maximum(target[:, class_id], drawn)
        limit = 1 - drawn
        other[:, class_id] = torch.minimum(other[:, class_id], limit)
        if prompt.positive:  # a voxel has one class, so positive prompts of other classes are erased here
            for others in (self.positive[:, :class_id], self.positive[:, class_id + 1 :]):
                torch.minimum(others, limit[:, None], out=others)

    def maps(self) -> Tensor:
        """Return the prompt maps (T, K, 4, h, w), as :func:`rasterize_prompts` does."""
        negative = torch.maximum(self.negative, _max_of_other_classes(self.positive))
        return torch.stack([self.positive, negative, self.box, self.wide_positive - self.wide_negative], 2)

    def _falloff(self, cells: Tensor, sigma: float, reach: int) -> Tensor:
        """Gaussian (T, h, w) of `sigma` cells around cells (N, 3): exactly 1 on them, 0 beyond `reach` slices."""
        sigma_slices = max(SIGMA_SLICES, reach / 2)
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
            along = torch.exp(-((self.slices[near] - d) ** 2) / (2 * sigma_slices**2)).to(self.device)
            indices = near.to(self.device)
            out[indices] = torch.maximum(out[indices], along[:, None, None] * plane)
        return out


class PromptMaps(Mapping[int, Tensor]):
    """Prompt maps (K, 4, h, w) by slice of a volume, for the slices that prompts affect.

    Stored for each prompted class, and once for all other classes, whose maps are equal.
    """

    def __init__(
        self,
        prompts: Sequence[GridPrompt],
        depth: int,
        num_classes: int,
        size: tuple[int, int],
        reach: int = REACH_SLICES,
    ) -> None:
        """Rasterize prompts on a volume of `depth` slices; other arguments as of :func:`rasterize_prompts`."""
        classes = sorted({prompt.class_id for prompt in prompts})
        renumbered = [replace(prompt, class_id=classes.index(prompt.class_id)) for prompt in prompts]
        slices = affected_slices(prompts, depth, reach)
        num_stored = max(2, len(classes) + 1)  # rasterization compares at least two classes
        maps = rasterize_prompts(renumbered, torch.tensor(slices, dtype=torch.float32), num_stored, size, reach)
        self._maps = dict(zip(slices, maps, strict=True))
        self._stored_index = [classes.index(k) if k in classes else len(classes) for k in range(num_classes)]

    def __getitem__(self, d: int) -> Tensor:
        maps: Tensor = self._maps[d][self._stored_index]
        return maps

    def __iter__(self) -> Iterator[int]:
        return iter(self._maps)

    def __len__(self) -> int:
        return len(self._maps)

    def signature(self, d: int) -> bytes:
        """Return bytes that identify the maps of a slice."""
        content: bytes = self._maps[d].numpy().tobytes()
        return bytes(self._stored_index) + content


def affected_slices(prompts: Iterable[GridPrompt], depth: int, reach: int = REACH_SLICES) -> list[int]:
    """Return the sorted indices of the slices, of `depth`, on which prompts are drawn with this `reach`."""
    affected: set[int] = set()
    for prompt in prompts:
        positions = prompt.cells[:, 0]
        if prompt.kind == "box":  # given by two corners
            positions = torch.arange(math.ceil(positions.min()), math.floor(positions.max()) + 1)
        extent = reach if prompt.kind == "point" else 0
        for d in positions.round().int().unique().tolist():
            affected.update(range(max(0, d - extent), min(depth, d + extent + 1)))
    return sorted(affected)


def _box_map(cells: Tensor, slices: Tensor, size: tuple[int, int]) -> Tensor:
    """Mask (T, h, w) of the bounding box of the cells; two corners are enough."""
    low, high = cells.amin(0), cells.amax(0)
    y, x = torch.arange(size[0]), torch.arange(size[1])
    inside_d = (slices >= low[0]) & (slices <= high[0])
    inside_y, inside_x = (y >= low[1]) & (y <= high[1]), (x >= low[2]) & (x <= high[2])
    return (inside_d[:, None, None] & inside_y[:, None] & inside_x[None]).float()


def _max_of_other_classes(positive: Tensor) -> Tensor:
    """Maximum of the positive maps (T, K, h, w) of all other classes, for each class."""
    top = positive.topk(2, dim=1).values
    first, second = top[:, :1], top[:, 1:]
    return torch.where(positive == first, second, first)
