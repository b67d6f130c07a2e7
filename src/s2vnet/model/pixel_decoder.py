"""Feature pyramid: a mask feature map, and three coarser maps on which centres cluster pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import EllipsisType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s2vnet.model.layers import GroupNorm

Index = int | slice | EllipsisType | list[int] | Tensor | tuple[int | slice | EllipsisType, ...]
"""What picks slices out of a batch."""


class Features(NamedTuple):
    """All that decoding needs of N slices; computed once, cached, indexed by slice."""

    mask: Tensor
    """Mask features (N, M, h, w) at the stem's stride."""
    keys: tuple[Tensor, ...]
    """Per clustering layer, unit-length keys (N, d, h_l, w_l) of the pixels, coarsest map first."""
    values: tuple[Tensor, ...]
    """Per clustering layer, what pixels give to their centre (N, d, h_l, w_l): appearance and place."""

    def select(self, index: Index) -> Features:
        """Features of a subset; `index` as for a tensor."""
        return self._each(lambda x: x[index])

    def detach(self) -> Features:
        """The same features without gradient."""
        return self._each(Tensor.detach)

    def unflatten(self, batch: int) -> Features:
        """(B*T, ...) to (B, T, ...)."""
        return self._each(lambda x: x.unflatten(0, (batch, -1)))

    def unbind(self) -> list[Features]:
        """(B, T, ...) to T times (B, ...). Not by index, whose gradient would fill all T slices for each."""
        keys, values = (zip(*(x.unbind(1) for x in maps), strict=True) for maps in (self.keys, self.values))
        return [Features(*parts) for parts in zip(self.mask.unbind(1), keys, values, strict=True)]

    @classmethod
    def assemble(cls, parts: Iterable[tuple[range, Features]], count: int) -> Features:
        """`count` slices from parts, each with its places; each part can go before the next one is made."""
        found: Features | None = None
        done = 0
        for places, part in parts:
            if found is None:
                found = part._each(lambda x: torch.empty_like(x[:1].expand(count, *x.shape[1:])))
            for whole, piece in zip(found.tensors, part.tensors, strict=True):
                whole[places.start : places.stop : places.step] = piece
            done += len(places)
        assert found is not None
        assert done == count
        return found

    @classmethod
    def from_tensors(cls, tensors: Sequence[Tensor]) -> Features:
        """Features of their :attr:`tensors`."""
        layers = len(tensors) // 2
        return cls(tensors[0], tuple(tensors[1 : 1 + layers]), tuple(tensors[1 + layers :]))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Mask features, then keys, then values."""
        return self.mask, *self.keys, *self.values

    def _each(self, change: Callable[[Tensor], Tensor]) -> Features:
        return Features(change(self.mask), tuple(map(change, self.keys)), tuple(map(change, self.values)))


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

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Encoder maps, finest first, to mask features and the clustering maps, coarsest first."""
        top = self.smooth[-1](self.lateral[-1](maps[-1]))
        pyramid = [top]
        for i in range(len(maps) - 2, -1, -1):
            above = F.interpolate(self.reduce[i](top), size=maps[i].shape[-2:], mode="nearest")
            top = self.smooth[i](self.lateral[i](maps[i]) + above)
            pyramid.append(top)
        return pyramid[-1], pyramid[:-1]


def _smooth(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), GroupNorm(8, width), nn.GELU())
