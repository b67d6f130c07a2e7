"""Feature pyramid network: mask features, and three coarser maps for clustering."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import EllipsisType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s2vnet.model.layers import GroupNorm

Index = int | slice | EllipsisType | list[int] | Tensor | tuple[int | slice | EllipsisType, ...]
"""Index of slices in a batch, as for a tensor."""


class Features(NamedTuple):
    """Features of N slices: all inputs of the decoder that depend on the image; computed once and cached."""

    mask: Tensor
    """Mask features (N, M, h, w) at the stem's stride."""
    keys: tuple[Tensor, ...]
    """Per clustering layer, unit-length keys (N, d, h_l, w_l), coarsest map first."""
    values: tuple[Tensor, ...]
    """Per clustering layer, values (N, d, h_l, w_l): appearance and position."""

    def select(self, index: Index) -> Features:
        """Select slices; `index` as for a tensor."""
        return self._map(lambda x: x[index])

    def detach(self) -> Features:
        """Detach from the graph."""
        return self._map(Tensor.detach)

    def unflatten(self, batch: int) -> Features:
        """Unflatten (B*T, ...) to (B, T, ...)."""
        return self._map(lambda x: x.unflatten(0, (batch, -1)))

    def unbind(self) -> list[Features]:
        """Split (B, T, ...) into T features (B, ...); the gradient of indexing would be a full tensor for each."""
        keys, values = (zip(*(x.unbind(1) for x in maps), strict=True) for maps in (self.keys, self.values))
        return [Features(*parts) for parts in zip(self.mask.unbind(1), keys, values, strict=True)]

    @classmethod
    def assemble(cls, parts: Iterable[tuple[range, Features]], count: int) -> Features:
        """Assemble features of `count` slices from parts with their slice indices; one part is in memory at a time."""
        assembled: Features | None = None
        done = 0
        for indices, part in parts:
            if assembled is None:
                assembled = part._map(lambda x: torch.empty_like(x[:1].expand(count, *x.shape[1:])))
            for whole, piece in zip(assembled.tensors, part.tensors, strict=True):
                whole[indices.start : indices.stop : indices.step] = piece
            done += len(indices)
        assert assembled is not None
        assert done == count
        return assembled

    @classmethod
    def from_tensors(cls, tensors: Sequence[Tensor]) -> Features:
        """Rebuild features from their :attr:`tensors`."""
        layers = len(tensors) // 2
        return cls(tensors[0], tuple(tensors[1 : 1 + layers]), tuple(tensors[1 + layers :]))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors: mask features, keys, values."""
        return self.mask, *self.keys, *self.values

    def _map(self, function: Callable[[Tensor], Tensor]) -> Features:
        return Features(function(self.mask), tuple(map(function, self.keys)), tuple(map(function, self.values)))


class PixelDecoder(nn.Module):
    """FPN (Lin et al., arXiv 1612.03144) with the widths of the encoder's maps, so that fine levels stay cheap."""

    def __init__(self, channels: Sequence[int], dim: int, mask_dim: int, num_classes: int) -> None:
        super().__init__()
        widths = [mask_dim, *(min(c, dim) for c in channels[1:])]
        self.widths = tuple(widths[:0:-1])
        self.lateral = nn.ModuleList(nn.Conv2d(c, w, 1) for c, w in zip(channels, widths, strict=True))
        self.reduce = nn.ModuleList(nn.Conv2d(widths[i + 1], widths[i], 1) for i in range(len(widths) - 1))
        self.smooth = nn.ModuleList(_smooth(w) for w in widths)
        self.auxiliary = nn.Conv2d(mask_dim, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Compute mask features (N, M, h, w) and maps for clustering (N, c, h_l, w_l), coarsest first.

        Args:
            maps: encoder maps (N, c, h_l, w_l), finest first.
        """
        top = self.smooth[-1](self.lateral[-1](maps[-1]))
        pyramid = [top]
        for i in range(len(maps) - 2, -1, -1):
            above = F.interpolate(self.reduce[i](top), size=maps[i].shape[-2:], mode="nearest")
            top = self.smooth[i](self.lateral[i](maps[i]) + above)
            pyramid.append(top)
        return pyramid[-1], pyramid[:-1]


def _smooth(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), GroupNorm(8, width), nn.GELU())
