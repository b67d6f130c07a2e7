"""S2VNet: slices are encoded once; each is decoded from its features, the carried state and its prompts.

Reference: Ding et al., "Clustering Propagation for Universal Medical Image Segmentation", CVPR 2024
(arXiv 2403.16646). Its code was never released; docs/concepts.md lists the choices of this implementation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s2vnet.config import ModelConfig
from s2vnet.errors import InputError
from s2vnet.model.aggregation import Aggregator, PropagationState
from s2vnet.model.clustering import INVALID_AFFINITY, ClusteringLayer, class_logits
from s2vnet.model.encoder import make_encoder
from s2vnet.model.interface import DecoderOutput, SliceInput, initial_state
from s2vnet.model.layers import depthwise_conv, to_fast_memory_format
from s2vnet.model.pixel_decoder import Features, PixelDecoder
from s2vnet.model.prompt_encoder import PROMPT_MAPS


class S2VNet(nn.Module):
    """2D network for automatic and interactive segmentation of volumes, all classes at once."""

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
        self.prompt_identity = nn.Parameter(torch.randn(d) * 0.5)
        self.travel = nn.Parameter(torch.zeros(d))
        self.centre_norm = nn.LayerNorm(d)
        self.layers = nn.ModuleList(
            ClusteringLayer(width, d, config.heads, config.assignment)
            for width in self.pixel_decoder.widths
            for _ in range(config.layers_per_level)
        )
        self.prompt_centre = nn.Sequential(nn.Linear(len(self.layers) * d + m, d), nn.LayerNorm(d))
        self.map_embedding = nn.Linear(d, (1 + PROMPT_MAPS) * m)
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

        On a CPU slices are decoded one by one, so that none depends on the others by rounding, and prompt centres are
        left out where none are needed. On a GPU they are decoded as a batch, since launching kernels dominates.
        """
        if inputs[0].features.mask.device.type == "cpu":
            return [self._decode_one(slice_input) for slice_input in inputs]
        return self._decode_batch(inputs)

    def _decode_batch(self, inputs: Sequence[SliceInput]) -> list[DecoderOutput]:
        batch = [*inputs, *inputs] if len(inputs) == 1 else inputs  # a batch of one is summed in another order
        features = Features.from_tensors(
            [torch.cat(parts) for parts in zip(*(one.features.tensors for one in batch), strict=True)]
        )
        state = PropagationState.concatenate([one.state for one in batch])
        template = next((one.prompts for one in batch if one.prompts is not None), None)
        prompts = None
        if template is not None:
            empty = torch.zeros_like(template)
            prompts = torch.cat([empty if one.prompts is None else one.prompts for one in batch])
        return self.decode(features, state, prompts).split()[: len(inputs)]

    def _decode_one(self, slice_input: SliceInput) -> DecoderOutput:
        prompts = slice_input.prompts if slice_input.prompted else None
        return self.decode(slice_input.features, slice_input.state, prompts, carried=slice_input.carried)

    def decode(
        self, features: Features, state: PropagationState, prompts: Tensor | None, *, carried: bool = True
    ) -> DecoderOutput:
        """Decode B slices.

        Args:
            features: features of B slices.
            state: state of the previous slice, or :meth:`initial_state`.
            prompts: (B, K, 4, h, w) maps of :class:`s2vnet.model.prompt_encoder.PromptRasterizer`. None is equivalent
                to zeros, bit for bit, and faster.
            carried: False asserts that the state carries no prompt centres. Without prompts they are then left out,
                with the same result up to rounding.
        """
        k = self.config.num_classes
        prior = state.masks if self.config.mask_prior else torch.zeros_like(state.masks)
        prior_levels = _pyramid(prior, features.keys, F.avg_pool2d)
        positive: Sequence[Tensor | None] = [None] * (1 + len(prior_levels))
        if prompts is not None:  # max pooling keeps single clicks on coarse maps
            positive = [*_pyramid(prompts[:, :, 0], features.keys, F.max_pool2d), prompts[:, :, 0]]
        valid: Tensor | None = None
        if prompts is None and not carried:
            centres, prompted_here = self._class_centres(state), torch.zeros_like(state.prompted)
            identity: Tensor = self.identity
        else:
            centres, valid, prompted_here = self._initial_centres(features, state, positive)
            identity = torch.cat([self.identity, self.identity + self.prompt_identity])
        layer_logits = []
        levels = zip(zip(features.keys, features.values, strict=True), prior_levels, positive[:-1], strict=True)
        for layer, level in zip(self._clustering, levels, strict=True):
            centres, affinity = layer(centres, identity, valid, *level)
            layer_logits.append(class_logits(affinity, k))
        pixels = self._pixel_embeddings(features.mask, prior, prompts)
        logits = self._mask_logits(pixels, centres, valid)
        if self.config.auxiliary_masks:
            logits = logits + self.auxiliary(features)
        presence = self.presence(centres[:, :k]).squeeze(-1)
        state = self.aggregator(state, centres, prompted_here, presence, logits)
        return DecoderOutput(logits, presence, tuple(layer_logits), state)

    def _class_centres(self, state: PropagationState) -> Tensor:
        """Initial class centres (B, K, d): carried ones, or else the learned ones."""
        known = state.known[..., None]
        centres: Tensor = self.centre_norm(known * state.centres + (1 - known) * self.initial_centres)
        return centres + state.direction[:, None, None] * self.travel

    def _initial_centres(
        self, features: Features, state: PropagationState, positive: Sequence[Tensor | None]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Initial class and prompt centres (B, 2K, d); prompt centres come from features under prompts, or are carried.

        Also return which centres take part (B, 2K), and which classes are prompted here (B, K).

        `positive` holds the positive prompt maps on the grid of each layer and, last, of the mask features; or None.
        """
        class_centres = self._class_centres(state)
        prompt_centres, prompted = self.centre_norm(state.prompt_centres), torch.zeros_like(state.prompted)
        if positive[-1] is not None:
            levels = zip((*features.values, features.mask), positive, strict=True)
            pooled = [_masked_mean(level, maps) for level, maps in levels if maps is not None]
            prompted = (positive[-1].amax((-2, -1)) > 0.5).to(class_centres.dtype)
            # the mean of the new and the carried prompt centre where there are both
            share = (prompted / (prompted + state.prompted).clamp_min(1))[..., None]
            prompt_centres = share * self.prompt_centre(torch.cat(pooled, -1)) + (1 - share) * prompt_centres
        valid = F.pad(torch.maximum(prompted, state.prompted), (self.config.num_classes, 0), value=1.0)
        return torch.cat([class_centres, prompt_centres], 1), valid, prompted

    def _pixel_embeddings(self, features: Tensor, prior: Tensor, prompts: Tensor | None) -> Tensor:
        """Pixel embeddings (B, h, w, M): mask features (B, M, h, w) fused with prior and prompt maps.

        The prior (B, K, h, w) and the prompt maps are added as embeddings of their class and kind of map.
        """
        embeddings = self.map_embedding(self.identity).unflatten(-1, (-1, self.config.mask_dim))  # (K, maps, M)
        pixels = features.permute(0, 2, 3, 1)
        mapped = pixels + _embed(prior, embeddings[:, 0], pixels)
        if prompts is not None:
            mapped = mapped + _embed(prompts.flatten(1, 2), embeddings[:, 1:].flatten(0, 1), pixels)
        fused: Tensor = self.fuse(depthwise_conv(self.surround, mapped.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return pixels + fused

    def _mask_logits(self, pixels: Tensor, centres: Tensor, valid: Tensor | None) -> Tensor:
        """Class logits (B, K, h, w): products of mask embeddings of centres with pixel embeddings (B, h, w, M)."""
        m = self.config.mask_dim
        weights, bias = self.mask_head(centres).split([m, 1], -1)
        if valid is not None:
            bias = bias + ((1 - valid) * INVALID_AFFINITY)[..., None]
        logits = torch.baddbmm(bias, weights / m**0.5, pixels.flatten(1, 2).transpose(1, 2))
        return class_logits(logits.unflatten(-1, pixels.shape[1:3]), self.config.num_classes)


def _pyramid(maps: Tensor, levels: Sequence[Tensor], pool: Callable[[Tensor, int], Tensor]) -> list[Tensor]:
    """Pool maps (B, K, h, w) to the size of each level, coarsest first; each is half the next level, or equal."""
    pooled: list[Tensor] = []
    for level in reversed(levels):
        while maps.shape[-2:] != level.shape[-2:]:
            maps = pool(maps, 2)
        pooled.insert(0, maps)
    return pooled


def _embed(maps: Tensor, embeddings: Tensor, pixels: Tensor) -> Tensor:
    """Sum of maps (B, n, h, w) times their embeddings (n, M), shaped like pixels (B, h, w, M)."""
    return (maps.flatten(2).transpose(1, 2) @ embeddings).view_as(pixels)


def _masked_mean(pixels: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean (B, K, c) of pixels (B, c, h, w) with weights (B, K, h, w); zero where all weights are."""
    total = weights.sum((-2, -1))[..., None]
    return weights.flatten(2) @ pixels.permute(0, 2, 3, 1).flatten(1, 2) / (total + 1e-4)
