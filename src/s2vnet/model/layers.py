"""Which layout and precision each kind of device computes faster in (torch 2.13)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def to_fast_memory_format(x: Tensor) -> Tensor:
    """Pixels x (N, C, H, W) in the layout that encoders want: channels last on a CPU.

    On a GPU cuDNN's gradients of depthwise convolutions are far slower there than torch's own in the ordinary layout.
    """
    return x.contiguous(memory_format=torch.channels_last if x.device.type == "cpu" else torch.contiguous_format)


def depthwise_conv(convolve: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A depthwise convolution of x (N, C, H, W).

    oneDNN's gradient of a strided one is six times slower in bfloat16 (a CPU with AVX512_BF16), while that of all
    other convolutions is two to four times faster.
    """
    if x.device.type != "cpu":
        return convolve(to_fast_memory_format(x))
    with torch.autocast("cpu", enabled=False):
        return convolve(x.float())


class GroupNorm(nn.GroupNorm):
    """Group normalisation in float32 on every device, as CUDA's autocast has it; its gradient is faster, too."""

    def forward(self, x: Tensor) -> Tensor:
        """Of x (N, C, ...)."""
        return super().forward(x.float())
