from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from s2vnet.errors import InputError
from s2vnet.model.efficientnet import BLOCKS, FEATURE_BLOCKS, STEM_CHANNELS, EfficientNetLite0, fold_batch_norm


def unfolded() -> dict[str, Tensor]:
    """Random weights in the layout of efficientnet_lite_pytorch."""
    generator = torch.Generator().manual_seed(0)
    weights: dict[str, Tensor] = {}

    def add(convolution: str, norm: str, out: int, channels: int, kernel: int) -> None:
        spread = (2 / (channels * kernel**2)) ** 0.5
        weights[f"{convolution}.weight"] = torch.randn(out, channels, kernel, kernel, generator=generator) * spread
        for name in ("weight", "running_var"):
            weights[f"{norm}.{name}"] = torch.rand(out, generator=generator) + 0.5
        for name in ("bias", "running_mean"):
            weights[f"{norm}.{name}"] = torch.randn(out, generator=generator) * 0.3

    add("_conv_stem", "_bn0", STEM_CHANNELS, 3, 3)
    width = STEM_CHANNELS
    for n, (kernel, _, expansion, out) in enumerate(BLOCKS):
        inner = width * expansion
        if expansion > 1:
            add(f"_blocks.{n}._expand_conv", f"_blocks.{n}._bn0", inner, width, 1)
        add(f"_blocks.{n}._depthwise_conv", f"_blocks.{n}._bn1", inner, 1, kernel)
        add(f"_blocks.{n}._project_conv", f"_blocks.{n}._bn2", out, inner, 1)
        width = out
    return weights


def reference(weights: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """Lite0 as it was published: convolution without bias, batch normalisation, ReLU6; TensorFlow's padding."""

    def layer(x: Tensor, convolution: str, norm: str, stride: int = 1, groups: int = 1) -> Tensor:
        weight = weights[f"{convolution}.weight"]
        kernel = weight.shape[-1]
        total = max(kernel - stride, 0)
        x = F.conv2d(F.pad(x, (total // 2, total - total // 2) * 2), weight, stride=stride, groups=groups)
        parts = [weights[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *parts, eps=1e-3)

    x = F.relu6(layer(x, "_conv_stem", "_bn0", 2))
    maps = []
    for n, (_, stride, expansion, _) in enumerate(BLOCKS):
        at, inner = f"_blocks.{n}.", x
        if expansion > 1:
            inner = F.relu6(layer(inner, f"{at}_expand_conv", f"{at}_bn0"))
        inner = F.relu6(layer(inner, f"{at}_depthwise_conv", f"{at}_bn1", stride, inner.shape[1]))
        out = layer(inner, f"{at}_project_conv", f"{at}_bn2")
        x = x + out if out.shape == x.shape else out
        if n in FEATURE_BLOCKS:
            maps.append(x)
    return maps


@torch.no_grad()
def test_the_folded_network_equals_the_published_one() -> None:
    weights, slices = unfolded(), torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    encoder = EfficientNetLite0(3, 2)
    encoder.load_imagenet(fold_batch_norm(weights))
    for norm, expected, found in zip(encoder.norms, reference(weights, slices), encoder(slices), strict=True):
        torch.testing.assert_close(found, norm(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("channels", [1, 2, 5])
@torch.no_grad()
def test_a_gray_slice_has_the_same_features_in_any_number_of_channels(channels: int) -> None:
    weights = fold_batch_norm(unfolded())
    weights["stem.weight"] = weights["stem.weight"].mean(1, keepdim=True).expand(-1, 3, -1, -1).contiguous()
    three, other = EfficientNetLite0(3, 2), EfficientNetLite0(channels, 2)
    for encoder in (three, other):
        encoder.load_imagenet(weights)
    grey = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    pairs = zip(three(grey.expand(-1, 3, -1, -1)), other(grey.expand(-1, channels, -1, -1)), strict=True)
    for expected, found in pairs:
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_other_strides_are_refused() -> None:
    with pytest.raises(InputError, match="stem of stride 2, not 4; choose another encoder"):
        EfficientNetLite0(3, 4)
