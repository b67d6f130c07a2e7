"""Corrector: a small class-agnostic network that finds the connected region that a prompt is meant to change.

It looks at a window of consecutive slices around the prompt. Its inputs are the image, the present labels as binary
masks relative to the prompt, and similarities to the prompted place; none of them depends on the classes or on the
features of the network that made the labels, so one corrector serves any network. Convolutions are 2D; slices exchange
a share of their channels with their neighbours before each convolution (temporal shift module, arXiv 1811.08383).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from s2vnet.model.bundled import WEIGHTS_FOLDER, verify_bundled_files
from s2vnet.model.layers import to_fast_memory_format

PIXEL_MAPS = ("image", "contrast", "class", "eligible", "clicked", "other")
"""Input maps on the window's pixels: image; difference of its intensity from that of the prompt; voxels of the prompt's
class; voxels that may change; those of them that have the same label as the prompted voxel; voxels of further classes
other than background."""
CELL_MAPS = (
    "probability",
    "affinity",
    "background",
    "similarity",
    "prompt near",
    "prompt wide",
    "same class near",
    "other class near",
    "positive",
    "valid",
    "zoom",
    "slice distance",
)
"""Input maps on cells of 2 x 2 pixels: log-odds of the prompt's class and of background, and overlap of the class
probabilities with those of the prompt; cosine similarity of features to those of the prompt; Gaussians around the
prompt and around earlier prompts; constants that describe the window."""
WEIGHTS = WEIGHTS_FOLDER / "corrector" / "corrector.safetensors"
WINDOW = (16, 96, 96)
"""Slices, rows and columns of a window; at zoom 2 a pixel of the window covers 2 x 2 pixels."""
CELL = 2
"""Pixels per cell along rows and columns."""
SHIFTED_SHARE = 4
"""One of this many channels comes from the slice before, and as many from the slice after."""


class Corrector(nn.Module):
    """U-Net over cells with three levels; see the module's docstring."""

    def __init__(self, widths: Sequence[int] = (32, 48, 96)) -> None:
        """Create the network with these numbers of channels per level, finest first."""
        super().__init__()
        fine, middle, coarse = widths
        self.stem = nn.Conv2d(CELL * CELL * len(PIXEL_MAPS) + len(CELL_MAPS), fine, 1)
        self.encode = nn.ModuleList([CorrectorBlocks(fine, 1), CorrectorBlocks(middle, 2), CorrectorBlocks(coarse, 3)])
        self.down = nn.ModuleList([nn.Conv2d(fine, middle, 1), nn.Conv2d(middle, coarse, 1)])
        self.up = nn.ModuleList([nn.Conv2d(middle, fine, 1), nn.Conv2d(coarse, middle, 1)])
        self.decode = nn.ModuleList([CorrectorBlocks(fine, 1), CorrectorBlocks(middle, 1)])
        self.head = nn.Conv2d(fine, CELL * CELL, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        assert self.head.bias is not None
        nn.init.constant_(self.head.bias, -2.0)  # most voxels of a window do not change

    @staticmethod
    def bundled_sha256() -> str:
        """SHA-256 of the package's weights file."""
        return hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()

    @classmethod
    def bundled(cls) -> Corrector:
        """Load the trained corrector of the package. Raises CheckpointError if its file was changed."""
        verify_bundled_files(WEIGHTS)
        return cls.from_state_dict(load_file(WEIGHTS))

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> Corrector:
        """Corrector in eval mode with stored weights, of the widths that these have."""
        widths = [len(state[f"encode.{n}.convolutions.0.bias"]) for n in range(3)]
        corrector = cls(widths)
        corrector.load_state_dict({name: tensor.float() for name, tensor in state.items()})
        return corrector.eval()

    def forward(self, pixels: Tensor, cells: Tensor) -> Tensor:
        """Logit (B, D, H, W) of each pixel to belong to the region that the prompt is meant to change.

        Args:
            pixels: (B, D, P, H, W) maps :data:`PIXEL_MAPS`; H and W are multiples of 8.
            cells: (B, D, C, H / 2, W / 2) maps :data:`CELL_MAPS`.
        """
        depth = pixels.shape[1]
        x = torch.cat([F.pixel_unshuffle(pixels.flatten(0, 1), CELL), cells.flatten(0, 1)], 1)
        x = self.encode[0](self.stem(to_fast_memory_format(x)), depth)
        skips = [x]
        for down, blocks in zip(self.down, self.encode[1:], strict=True):
            x = blocks(down(F.avg_pool2d(x, 2)), depth)
            skips.append(x)
        x = skips.pop()
        for up, blocks in zip(self.up[::-1], self.decode[::-1], strict=True):
            x = blocks(skips.pop() + F.interpolate(up(x), scale_factor=2, mode="nearest"), depth)
        logits: Tensor = F.pixel_shuffle(self.head(F.relu(x)), CELL)[:, 0].unflatten(0, (-1, depth))
        return logits


class CorrectorBlocks(nn.Module):
    """Residual blocks of two 3 x 3 convolutions, each after an exchange of channels between slices."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(count))
        self.scales = nn.ParameterList(nn.Parameter(torch.full((1, width, 1, 1), 0.5)) for _ in range(count))

    def forward(self, x: Tensor, depth: int) -> Tensor:
        for convolve, scale in zip(self.convolutions, self.scales, strict=True):
            x = x + scale * convolve(to_fast_memory_format(_shift_slices(F.relu(x), depth)))
        return x


def _shift_slices(x: Tensor, depth: int) -> Tensor:
    """Take some channels of each slice of x (B * D, c, h, w) from its neighbours; zeros beyond the ends."""
    share = x.shape[1] // SHIFTED_SHARE
    slices = x.unflatten(0, (-1, depth))
    before, after, own = slices.split([share, share, x.shape[1] - 2 * share], 2)
    before = F.pad(before[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0))
    after = F.pad(after[:, 1:], (0, 0, 0, 0, 0, 0, 0, 1))
    return torch.cat([before, after, own], 2).flatten(0, 1)
