"""Clustering by recurrent cross-attention: pixels choose a centre, centres move to the mean of their pixels.

Reference: S2VNet, section 3 (CVPR 2024, arXiv 2403.16646); the k-means cross-attention is kMaX-DeepLab's
(arXiv 2207.04044), with a mean in place of the sum, since a warm-started centre must not scale with organ area.

Rows are centres: K slots (one per class), then K prompt rows (one per class, valid where that class was prompted).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PROMPT_AFFINITY = 20.0
"""Added to the affinity of a prompted pixel to its class's prompt row: a click decides its own assignment."""
INVALID_AFFINITY = -1e4
"""Affinity of a row that stands for no prompt; finite, so that softmax and export stay exact."""


def assign(affinity: Tensor, mode: str) -> Tensor:
    """Affinity (B, R, N) of N pixels to R rows, to assignment (B, R, N) that sums to 1 over rows.

    ``hard`` is one-hot and carries no gradient (the deep-supervision loss trains the affinity, as in kMaX-DeepLab).
    """
    if mode == "soft":
        return affinity.softmax(1)
    winner = argmax_class(affinity)[:, None]
    rows = torch.arange(affinity.shape[1], device=affinity.device)[None, :, None]
    return (winner == rows).to(affinity.dtype)


def argmax_class(scores: Tensor) -> Tensor:
    """Index (B, ...) of the largest entry along axis 1 of (B, R, ...); torch's argmax is ten times slower there."""
    return scores.max(1).indices


def class_logits(rows: Tensor, num_classes: int) -> Tensor:
    """Row logits (B, 2K, ...) to class logits (B, K, ...): a class's rows act together (log-sum-exp).

    K rows, where there are none of prompts, are class logits already.
    """
    if rows.shape[1] == num_classes:
        return rows
    return torch.logaddexp(rows[:, :num_classes], rows[:, num_classes:])


def sine_position_encoding(height: int, width: int, dim: int, device: torch.device) -> Tensor:
    """2D sine position encoding (height*width, dim), measured from the map's centre in units of 64 cells."""
    frequencies = 2.0 ** torch.linspace(0, 4, dim // 4, device=device) * math.pi
    y = (torch.arange(height, device=device) + 0.5 - height / 2) / 64
    x = (torch.arange(width, device=device) + 0.5 - width / 2) / 64
    phase_y = (y[:, None] * frequencies)[:, None].expand(-1, width, -1)
    phase_x = (x[:, None] * frequencies)[None].expand(height, -1, -1)
    return torch.cat([phase_y.sin(), phase_y.cos(), phase_x.sin(), phase_x.cos()], -1).flatten(0, 1)


class ClusteringLayer(nn.Module):
    """One assign-and-update step on one feature map, then self-attention between centres and a feed-forward net."""

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
        """Keys and values (N, d, h, w) of a feature map (N, c, h, w); independent of centres, so computed once."""
        height, width = pixels.shape[-2:]
        x = pixels.flatten(2).transpose(1, 2)
        place = self.place(sine_position_encoding(height, width, self.place.in_features, x.device).to(x.dtype))
        keys = F.normalize(self.key(x) + place, dim=-1)
        # values hold appearance and place, so a centre knows where its class is as well as what it looks like
        values = self.value(x) + place
        keys, values = (t.unflatten(1, (height, width)).permute(0, 3, 1, 2) for t in (keys, values))
        return keys, values  # with their channels last in memory, as clustering uses them

    def forward(
        self,
        centres: Tensor,
        identity: Tensor,
        valid: Tensor | None,
        features: tuple[Tensor, Tensor],
        prior: Tensor,
        force: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """One clustering iteration.

        Args:
            centres: (B, R, d) rows, R = 2K, or K where there are none of prompts.
            identity: (R, d) class identity of each row.
            valid: (B, R) 1 where a row takes part; None where all do.
            features: keys and values (B, d, h, w) of :meth:`keys_and_values`.
            prior: (B, K, h, w) previous slice's soft masks, zero when nothing was carried.
            force: (B, K, h, w) positive prompt maps; None as zeros.

        Returns:
            Updated centres (B, R, d) and row affinities (B, R, h, w).
        """
        size = prior.shape[-2:]
        keys, values = (t.permute(0, 2, 3, 1).flatten(1, 2) for t in features)
        queries = F.normalize(self.query(centres + identity), dim=-1) * self.temperature.exp()
        affinity = queries @ keys.mT
        if valid is not None:
            affinity = affinity + (1 - valid)[..., None] * INVALID_AFFINITY
        classes = prior.shape[1]
        affinity[:, :classes] += self.prior_weight * prior.flatten(2)
        if force is not None:
            affinity[:, classes:] += PROMPT_AFFINITY * force.flatten(2)
        chosen = assign(affinity, self.assignment)
        mean = (chosen @ values) / (1 + chosen.sum(-1, keepdim=True))
        centres = self.norms[0](centres + self.update(mean))
        centres = self.norms[1](centres + self._attend(centres, identity, valid))
        centres = self.norms[2](centres + self.ffn(centres))
        return centres, affinity.unflatten(-1, (size[0], size[1]))

    def _attend(self, centres: Tensor, identity: Tensor, valid: Tensor | None) -> Tensor:
        def split(t: Tensor) -> Tensor:
            heads: Tensor = t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            return heads

        query, key = self.qk(centres + identity).chunk(2, -1)
        mask = None if valid is None else ((1 - valid) * INVALID_AFFINITY)[:, None, None, :]
        mixed = F.scaled_dot_product_attention(split(query), split(key), split(self.v(centres)), attn_mask=mask)
        out: Tensor = self.mix(mixed.transpose(1, 2).flatten(2))
        return out
