from __future__ import annotations

import torch
from torch import nn

from s2vnet.model.layers import GroupNorm, depthwise_conv


def test_layers_compute_in_float32_under_autocast() -> None:
    x = torch.randn(2, 8, 6, 6)
    convolution, norm = nn.Conv2d(8, 8, 3, groups=8), GroupNorm(4, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert convolution(x).dtype == torch.bfloat16  # what this module keeps from happening
        half = x.bfloat16()
        under = depthwise_conv(convolution, half), norm(half)
        assert all(found.dtype == torch.float32 for found in under)
    torch.testing.assert_close(under[0], convolution(half.float()), atol=0, rtol=0)
    assert torch.equal(depthwise_conv(convolution, x), convolution(x))
    assert torch.equal(norm(x), nn.GroupNorm.forward(norm, x))
