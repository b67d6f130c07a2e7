"""Feature pyramid: a mask feature map, and three coarser maps on which centres cluster pixels."""

from __future__ import annotations

from collections.abc import Sequence
from types import EllipsisType
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

Index = int | slice | EllipsisType | list[int] | Tensor | tuple[int | slice | EllipsisType, ...]
"""What picks slices out of a batch."""


class Features(NamedTuple):
    """All that decoding needs of N slices; computed once, cached, indexed by slice."""

    mask: Tensor
    """Mask features (N, M, h, w) at the stem's stride."""
    pyramid: tuple[Tensor, ...]
    """Clustering maps (N, c_l, h_l, w_l), coarsest first."""

    def at(self, index: Index) -> Features:
        """Features of a subset; `index` as for a tensor."""
        return Features(self.mask[index], tuple(level[index] for level in self.pyramid))

    def detach(self) -> Features:
        """The same features without gradient."""
        return Features(self.mask.detach(), tuple(level.detach() for level in self.pyramid))

    def unflatten(self, batch: int) -> Features:
        """(B*T, ...) to (B, T, ...)."""
        return Features(self.mask.unflatten(0, (batch, -1)), tuple(x.unflatten(0, (batch, -1)) for x in self.pyramid))


class PixelDecoder(nn.Module):
    """FPN (Lin et al., arXiv 1612.03144) whose width follows the encoder's, so that fine levels stay cheap."""

    def __init__(self, channels: Sequence[int], dim: int, mask_dim: int, num_classes: int) -> None:
        super().__init__()
        widths = [mask_dim, *(min(c, dim) for c in channels[1:])]
        self.widths = tuple(widths[:0:-1])
        self.lateral = nn.ModuleList(nn.Conv2d(c, w, 1) for c, w in zip(channels, widths, strict=True))
        self.reduce = nn.ModuleList(nn.Conv2d(widths[i + 1], widths[i], 1) for i in range(len(widths) - 1))
        self.smooth = nn.ModuleList(_smooth(w) for w in widths)
        self.auxiliary = nn.Conv2d(mask_dim, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Features:
        """Encoder maps, finest first, to :class:`Features`."""
        top = self.smooth[-1](self.lateral[-1](maps[-1]))
        pyramid = [top]
        for i in range(len(maps) - 2, -1, -1):
            above = F.interpolate(self.reduce[i](top), size=maps[i].shape[-2:], mode="nearest")
            top = self.smooth[i](self.lateral[i](maps[i]) + above)
            pyramid.append(top)
        return Features(pyramid[-1], tuple(pyramid[:-1]))


def _smooth(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(8, width), nn.GELU())
