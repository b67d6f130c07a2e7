"""Layers with the memory format and precision that are fastest on each kind of device (torch 2.13)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def to_fast_memory_format(x: Tensor) -> Tensor:
    """Convert x (N, C, H, W) to the faster memory format: channels last on a CPU, contiguous elsewhere.

    On a GPU, gradients of depthwise convolutions are far slower in channels-last format (cuDNN).
    """
    return x.contiguous(memory_format=torch.channels_last if x.device.type == "cpu" else torch.contiguous_format)


def depthwise_conv(convolve: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a depthwise convolution to x (N, C, H, W), in float32 on a CPU.

    oneDNN's gradient of a strided depthwise convolution is six times slower in bfloat16 (a CPU with AVX512_BF16);
    those of other convolutions are two to four times faster.
    """
    if x.device.type != "cpu":
        return convolve(to_fast_memory_format(x))
    with torch.autocast("cpu", enabled=False):
        return convolve(x.float())


class GroupNorm(nn.GroupNorm):
    """Group normalization in float32 on every device, as under CUDA's autocast; its gradient is also faster."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x (N, C, ...)."""
        return super().forward(x.float())
