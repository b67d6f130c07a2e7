"""EfficientNet-Lite0 as a slice encoder, with batch normalization folded into the convolutions.

Lite0 is EfficientNet-B0 (Tan and Le, arXiv 1905.11946) without squeeze-and-excitation and with ReLU6 in place of swish
(https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite). On a CPU its depthwise convolutions
process slices of twice the resolution at the cost of a residual encoder, and weights pretrained on ImageNet exist.
Batch normalization with fixed statistics is an affine map of each channel, so convolutions with a bias are the same
network; a slice's features then depend on that slice alone (docs/decisions/004-normalisation.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from s2vnet.errors import InputError
from s2vnet.model.layers import GroupNorm, depthwise_conv, to_fast_memory_format

STEM_CHANNELS = 32
"""Output channels of the first convolution."""
BLOCKS = (
    (3, 1, 1, 16),
    (3, 2, 6, 24),
    (3, 1, 6, 24),
    (5, 2, 6, 40),
    (5, 1, 6, 40),
    (3, 2, 6, 80),
    (3, 1, 6, 80),
    (3, 1, 6, 80),
    (5, 1, 6, 112),
    (5, 1, 6, 112),
    (5, 1, 6, 112),
)
"""Kernel, stride, expansion and channels of the first eleven of Lite0's sixteen blocks; the others, at stride 32, hold
most of its weights and are too coarse for most organs."""
FEATURE_BLOCKS = (0, 2, 4, 10)
"""Indices of the blocks whose outputs are feature maps: the last blocks at strides 2, 4, 8 and 16."""
NORM_GROUPS = 8
BATCH_NORM_EPSILON = 1e-3


class EfficientNetLite0(nn.Module):
    """Encoder with four group-normalized feature maps per slice, at strides 2, 4, 8 and 16."""

    channels = tuple(BLOCKS[index][3] for index in FEATURE_BLOCKS)

    def __init__(self, in_channels: int, stem_stride: int) -> None:
        super().__init__()
        if stem_stride != 2:
            raise InputError(
                f"efficientnet-lite0 has a stem of stride 2, not {stem_stride}; choose another encoder or stem_stride"
            )
        self.stem = _Convolution(in_channels, STEM_CHANNELS, 3, 2)
        widths = [STEM_CHANNELS, *(out for *_, out in BLOCKS)]
        self.blocks = nn.ModuleList(
            _Block(width, kernel, stride, expansion, out)
            for width, (kernel, stride, expansion, out) in zip(widths, BLOCKS, strict=False)
        )
        # the scales of ImageNet features differ tenfold, and no later layer normalizes them
        self.norms = nn.ModuleList(GroupNorm(NORM_GROUPS, c) for c in self.channels)

    def forward(self, slices: Tensor) -> list[Tensor]:
        """Encode slices (N, C, H, W) to four maps (N, channels[l], H / 2^(l + 1), W / 2^(l + 1)), finest first."""
        x = F.relu6(self.stem(to_fast_memory_format(slices)), inplace=True)
        maps: list[Tensor] = []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in FEATURE_BLOCKS:
                maps.append(self.norms[len(maps)](x))
        return maps

    def load_imagenet(self, weights: Mapping[str, Tensor]) -> None:
        """Load folded ImageNet weights (:func:`fold_batch_norm`).

        For other than three channels the stem's filters are repeated and scaled so that the same slice in every
        channel gives the features of a gray image.
        """
        own = self.state_dict()
        new = {name: weights[name].to(own[name]) for name in own if not name.startswith("norms.")}
        stem = new["stem.weight"]
        in_channels = own["stem.weight"].shape[1]
        repeated = stem.repeat(1, -(-in_channels // stem.shape[1]), 1, 1)[:, :in_channels]
        new["stem.weight"] = repeated * (stem.shape[1] / in_channels)
        self.load_state_dict(own | new)


def fold_batch_norm(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fold batch normalization of efficientnet_lite_pytorch weights, named as in the encoder's state dict."""
    folded = _fold_convolution(weights, "_conv_stem", "_bn0", "stem")
    for number, (_, _, expansion, _) in enumerate(BLOCKS):
        parts = [("expand", "_expand_conv", "_bn0")] if expansion > 1 else []
        parts += [("depthwise", "_depthwise_conv", "_bn1"), ("project", "_project_conv", "_bn2")]
        for part, convolution, norm in parts:
            prefix = f"_blocks.{number}."
            folded |= _fold_convolution(weights, prefix + convolution, prefix + norm, f"blocks.{number}.{part}")
    return folded


def _fold_convolution(weights: Mapping[str, Tensor], convolution: str, norm: str, name: str) -> dict[str, Tensor]:
    scale = weights[f"{norm}.weight"] / (weights[f"{norm}.running_var"] + BATCH_NORM_EPSILON).sqrt()
    bias = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale
    return {f"{name}.weight": weights[f"{convolution}.weight"] * scale[:, None, None, None], f"{name}.bias": bias}


class _Convolution(nn.Conv2d):
    """Convolution with TensorFlow's padding, as Lite0 was trained: at stride 2 more at the end than at the start."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(channels, out, kernel, stride, padding=(kernel - 1) // 2 if stride == 1 else 0, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] == 2:
            kernel = self.kernel_size[0]
            x = F.pad(x, ((kernel - 2) // 2, (kernel - 1) // 2) * 2)
        return depthwise_conv(super().forward, x) if self.groups > 1 else super().forward(x)


class _Block(nn.Module):
    """Inverted residual block (arXiv 1801.04381): expansion, depthwise convolution, projection."""

    def __init__(self, channels: int, kernel: int, stride: int, expansion: int, out: int) -> None:
        super().__init__()
        inner = channels * expansion
        self.expand = _Convolution(channels, inner, 1) if expansion > 1 else None
        self.depthwise = _Convolution(inner, inner, kernel, stride, inner)
        self.project = _Convolution(inner, out, 1)
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        inner = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        out = cast(Tensor, self.project(F.relu6(self.depthwise(inner), inplace=True)))
        return x + out if self.residual else out
