"""Rasterization of prompts on the mask grid: every kind of prompt becomes the same four maps per class and slice.

Maps are soft and extend into neighbouring slices, since a correction concerns a location in the volume. Later prompts
override earlier ones.
"""

from __future__ import annotations

from dataclasses import dataclass
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


class PromptRasterizer:
    """Incremental rasterizer of prompts on some slices."""

    def __init__(
        self, slices: Tensor, num_classes: int, size: tuple[int, int], reach: int, device: torch.device | str
    ) -> None:
        """Start with no prompts.

        Args:
            slices: (T,) positions of the slices, in slices, on the CPU.
            num_classes: K, background included.
            size: (h, w) of the mask grid.
            reach: slices on either side of points and scribbles on which their wide maps are drawn.
            device: device of the maps; prompts are on the CPU.
        """
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
        """Return the prompt maps (T, K, 4, h, w).

        Positive, negative and box maps in [0, 1], and a wide map in [-1, 1]: proximity of positive prompts minus that
        of negative ones.
        """
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
