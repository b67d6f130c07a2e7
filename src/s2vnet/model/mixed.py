"""What a CPU computes faster in float32 also under mixed precision (torch 2.13, a CPU with AVX512_BF16)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def depthwise(convolve: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A depthwise convolution of x (N, C, H, W).

    oneDNN's gradient of a strided one is six times slower in bfloat16, while that of all other convolutions is two to
    four times faster.
    """
    if x.device.type != "cpu":
        return convolve(x)
    with torch.autocast("cpu", enabled=False):
        return convolve(x.float())


class GroupNorm(nn.GroupNorm):
    """Group normalisation in float32 on every device, as CUDA's autocast has it; its gradient is faster, too."""

    def forward(self, x: Tensor) -> Tensor:
        """Of x (N, C, ...)."""
        return super().forward(x.float())
