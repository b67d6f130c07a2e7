"""S2VNet: slices are encoded once; each is decoded from its features and the carried state.

Reference: Ding et al., "Clustering Propagation for Universal Medical Image Segmentation", CVPR 2024
(arXiv 2403.16646). Its code was never released; docs/concepts.md lists the choices of this implementation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s2vnet.config import ModelConfig
from s2vnet.errors import InputError
from s2vnet.model.aggregation import Aggregator, PropagationState
from s2vnet.model.clustering import ClusteringLayer
from s2vnet.model.encoder import make_encoder
from s2vnet.model.interface import DecoderOutput, SliceInput, initial_state
from s2vnet.model.layers import depthwise_conv, to_fast_memory_format
from s2vnet.model.pixel_decoder import Features, PixelDecoder


class S2VNet(nn.Module):
    """2D network for automatic segmentation of volumes, all classes at once."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        d, m, k = config.dim, config.mask_dim, config.num_classes
        if d % 8 or m % 8 or d % config.heads:
            raise InputError(f"dim {d} and mask_dim {m} must be multiples of 8, and dim one of heads {config.heads}")
        self.encoder = make_encoder(config.encoder, config.in_channels, config.stem_stride)
        self.pixel_decoder = PixelDecoder(self.encoder.channels, d, m, k)
        self.initial_centres = nn.Parameter(torch.randn(k, d) * 0.5)
        self.identity = nn.Parameter(torch.randn(k, d) * 0.5)
        self.travel = nn.Parameter(torch.zeros(d))
        self.centre_norm = nn.LayerNorm(d)
        self.layers = nn.ModuleList(
            ClusteringLayer(width, d, config.heads, config.assignment)
            for width in self.pixel_decoder.widths
            for _ in range(config.layers_per_level)
        )
        self.map_embedding = nn.Linear(d, m)
        # the only convolution of the decoder; depthwise, so that decoding is cheap compared with encoding
        self.surround = nn.Conv2d(m, m, 5, padding=2, groups=m)
        self.fuse = nn.Sequential(nn.Linear(m, 2 * m), nn.ReLU(inplace=True), nn.Linear(2 * m, m))
        self.mask_head = nn.Sequential(nn.Linear(d, d), nn.GELU(), nn.Linear(d, m + 1))
        self.presence = nn.Linear(d, 1)
        self.aggregator = Aggregator(config)
        nn.init.zeros_(self.fuse[-1].weight)  # type: ignore[arg-type]

    @property
    def _clustering(self) -> list[ClusteringLayer]:
        return cast(list[ClusteringLayer], list(self.layers))

    @property
    def stride(self) -> int:
        """Divisor of the height and width of slices."""
        return self.config.stem_stride * 8

    def encode_slices(self, slices: Tensor) -> Sequence[Features]:
        """Encode slices (N, C, H, W), each with its neighbours as channels, to the features of each (inference)."""
        whole = self.encode(slices)
        return [whole.select(slice(n, n + 1)) for n in range(len(slices))]

    def encode(self, slices: Tensor) -> Features:
        """Encode slices (N, C, H, W), each with its neighbours as channels, independently of each other."""
        return self.features_from_maps(self.encoder(slices))

    def features_from_maps(self, maps: Sequence[Tensor]) -> Features:
        """Compute features from the encoder's maps (N, c, h, w), finest first."""
        mask, pyramid = self.pixel_decoder(maps)
        pixels = [pyramid[index // self.config.layers_per_level] for index in range(len(self.layers))]
        projected = [layer.keys_and_values(x) for layer, x in zip(self._clustering, pixels, strict=True)]
        # the decoder works per pixel, and its depthwise convolution is ten times faster in this memory format
        mask = to_fast_memory_format(mask)
        return Features(mask, tuple(keys for keys, _ in projected), tuple(values for _, values in projected))

    def auxiliary(self, features: Features) -> Tensor:
        """Class logits (N, K, h, w) of the pixel decoder alone, for supervision and (``auxiliary_masks``) the masks."""
        logits: Tensor = self.pixel_decoder.auxiliary(features.mask)
        return logits

    def initial_state(self, features: Features, direction: Tensor | None = None) -> PropagationState:
        """Return the state that enters the first slice; see :func:`s2vnet.model.interface.initial_state`."""
        return initial_state(self.config, features, direction)

    def decode_slices(self, inputs: Sequence[SliceInput]) -> list[DecoderOutput]:
        """Decode slices independently of each other (inference).

        On a CPU slices are decoded one by one, so that none depends on the others by rounding. On a GPU they are
        decoded as a batch, since launching kernels dominates.
        """
        if inputs[0].features.mask.device.type == "cpu":
            return [self.decode(*slice_input) for slice_input in inputs]
        return self._decode_batch(inputs)

    def _decode_batch(self, inputs: Sequence[SliceInput]) -> list[DecoderOutput]:
        batch = [*inputs, *inputs] if len(inputs) == 1 else inputs  # a batch of one is summed in another order
        features = Features.from_tensors(
            [torch.cat(parts) for parts in zip(*(one.features.tensors for one in batch), strict=True)]
        )
        state = PropagationState.concatenate([one.state for one in batch])
        return self.decode(features, state).split()[: len(inputs)]

    def decode(self, features: Features, state: PropagationState) -> DecoderOutput:
        """Decode B slices.

        Args:
            features: features of B slices.
            state: state of the previous slice, or :meth:`initial_state`.
        """
        prior = state.masks if self.config.mask_prior else torch.zeros_like(state.masks)
        centres, layer_logits = self._class_centres(state), []
        levels = zip(features.keys, features.values, _pyramid(prior, features.keys), strict=True)
        for layer, (keys, values, level) in zip(self._clustering, levels, strict=True):
            centres, affinity = layer(centres, self.identity, (keys, values), level)
            layer_logits.append(affinity)
        logits = self._mask_logits(self._pixel_embeddings(features.mask, prior), centres)
        if self.config.auxiliary_masks:
            logits = logits + self.auxiliary(features)
        presence = self.presence(centres).squeeze(-1)
        state = self.aggregator(state, centres, presence, logits)
        return DecoderOutput(logits, presence, tuple(layer_logits), state)

    def _class_centres(self, state: PropagationState) -> Tensor:
        """Initial class centres (B, K, d): carried ones, or else the learned ones."""
        known = state.known[..., None]
        centres: Tensor = self.centre_norm(known * state.centres + (1 - known) * self.initial_centres)
        return centres + state.direction[:, None, None] * self.travel

    def _pixel_embeddings(self, features: Tensor, prior: Tensor) -> Tensor:
        """Pixel embeddings (B, h, w, M): mask features (B, M, h, w) fused with the prior (B, K, h, w).

        The prior is added as embeddings of its classes.
        """
        pixels = features.permute(0, 2, 3, 1)
        embeddings: Tensor = self.map_embedding(self.identity)
        embedded = (prior.flatten(2).transpose(1, 2) @ embeddings).view_as(pixels)
        mapped = (pixels + embedded).permute(0, 3, 1, 2)
        fused: Tensor = self.fuse(depthwise_conv(self.surround, mapped).permute(0, 2, 3, 1))
        return pixels + fused

    def _mask_logits(self, pixels: Tensor, centres: Tensor) -> Tensor:
        """Class logits (B, K, h, w): products of mask embeddings of centres with pixel embeddings (B, h, w, M)."""
        m = self.config.mask_dim
        weights, bias = self.mask_head(centres).split([m, 1], -1)
        logits = torch.baddbmm(bias, weights / m**0.5, pixels.flatten(1, 2).transpose(1, 2))
        return logits.view(*logits.shape[:2], *pixels.shape[1:3])


def _pyramid(maps: Tensor, levels: Sequence[Tensor]) -> list[Tensor]:
    """Average maps (B, K, h, w) to the size of each level, coarsest first; each is half the next level, or equal."""
    pooled: list[Tensor] = []
    for level in reversed(levels):
        while maps.shape[-2:] != level.shape[-2:]:
            maps = F.avg_pool2d(maps, 2)
        pooled.insert(0, maps)
    return pooled
