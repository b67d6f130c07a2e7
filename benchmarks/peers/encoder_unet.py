"""A U-Net on the encoder of s2vnet."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from monai.networks.nets.flexible_unet import UNetDecoder
from torch import Tensor, nn

from s2vnet.model.efficientnet import EfficientNetLite0


class EncoderUNet(nn.Module):
    """S2VNet's encoder with a U-Net decoder: two 3 x 3 convolutions per level, logits at stride 2, bilinear upsampling.

    Args:
        channels: of the image, with neighbouring slices.
        classes: with background.
        widths: channels of the decoder's levels, coarsest first.
    """

    def __init__(self, channels: int, classes: int, widths: Sequence[int] = (96, 64, 48)) -> None:
        super().__init__()
        self.encoder = EfficientNetLite0(channels, 2)
        norm = ("group", {"num_groups": 8})
        act = ("relu", {"inplace": True})
        maps = self.encoder.channels
        options = (act, norm, 0.0, False, "nontrainable", "default", "nearest", None, False)
        self.decoder = UNetDecoder(2, (channels, *maps), (*widths, 32), *options)
        self.decoder.blocks = self.decoder.blocks[:3]  # the last block, to stride 1, doubles the cost of a step
        self.head = nn.Conv2d(widths[-1], classes, 1)

    def forward(self, slices: Tensor) -> Tensor:
        """Compute logits (N, K, H, W) of slices (N, C, H, W)."""
        return self.decode(self.encoder(slices), slices.shape[-2:])

    def decode(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Compute logits (N, K, *size) from the encoder's feature maps, finest first."""
        x = maps[-1]
        for block, skip in zip(self.decoder.blocks, maps[-2::-1], strict=True):
            x = block(x, skip)
        return F.interpolate(self.head(x), size=tuple(size), mode="bilinear")
