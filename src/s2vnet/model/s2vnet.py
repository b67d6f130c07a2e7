"""The network: encode slices once; decode a slice from its features, the carried state and its prompts.

Reference: Ding et al., "Clustering Propagation for Universal Medical Image Segmentation", CVPR 2024
(arXiv 2403.16646). Its code was never released; docs/concepts says where this implementation had to choose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s2vnet.config import ModelConfig
from s2vnet.errors import InputError
from s2vnet.model.aggregation import Aggregator, PropagationState
from s2vnet.model.clustering import INVALID_AFFINITY, ClusteringLayer, class_logits
from s2vnet.model.encoder import make_encoder
from s2vnet.model.layers import depthwise_conv, to_fast_memory_format
from s2vnet.model.pixel_decoder import Features, PixelDecoder

PROMPT_MAPS = 4
"""Maps per class and slice that prompts are drawn on: positive, negative, box, wide."""


class DecoderOutput(NamedTuple):
    """Result of decoding B slices."""

    logits: Tensor
    """Class logits (B, K, h, w) at the mask features' stride."""
    presence: Tensor
    """Presence logits (B, K): does the class appear on this slice?"""
    layer_logits: tuple[Tensor, ...]
    """Class affinities (B, K, h_l, w_l) of every clustering layer, coarsest first, for deep supervision."""
    state: PropagationState
    """What the next slice receives."""

    @classmethod
    def concatenate(cls, rows: Sequence[DecoderOutput]) -> DecoderOutput:
        """A batch of what was decoded one by one."""
        state = PropagationState(*(torch.cat(parts) for parts in zip(*(row.state for row in rows), strict=True)))
        return cls(torch.cat([r.logits for r in rows]), torch.cat([r.presence for r in rows]), (), state)

    def split(self) -> list[DecoderOutput]:
        """Each of the B slices, without the layers' logits."""
        parts = zip(self.logits.split(1), self.presence.split(1), *(x.split(1) for x in self.state), strict=True)
        return [DecoderOutput(logits, presence, (), PropagationState(*state)) for logits, presence, *state in parts]


class SliceInput(NamedTuple):
    """A slice to decode, a batch of one."""

    features: Features
    state: PropagationState
    prompts: Tensor | None
    """(1, K, 4, h, w) maps of :func:`s2vnet.model.prompt_encoder.rasterize_prompts`, or None."""

    @property
    def prompted(self) -> bool:
        """Whether somebody prompted on this slice."""
        return self.prompts is not None and bool(self.prompts.max() > 0)  # no map is negative, and `any` is slow

    @property
    def carried(self) -> bool:
        """Whether a prompt's centre is carried to this slice."""
        return bool(self.state.prompted.any())


class Network(Protocol):
    """What encodes and decodes slices: :class:`S2VNet`, or its exported graphs."""

    @property
    def config(self) -> ModelConfig:
        """Of the network."""

    @property
    def stride(self) -> int:
        """Slices must be a multiple of this in height and width."""

    def encode_slices(self, slices: Tensor) -> Sequence[Features]:
        """See :meth:`S2VNet.encode_slices`."""

    def initial_state(self, features: Features, direction: Tensor | None = None) -> PropagationState:
        """See :func:`initial_state`."""

    def decode_slices(self, rows: Sequence[SliceInput]) -> list[DecoderOutput]:
        """See :meth:`S2VNet.decode_slices`."""


def initial_state(config: ModelConfig, features: Features, direction: Tensor | None = None) -> PropagationState:
    """State in which nothing has been carried, for slices like `features` (B, ...).

    Args:
        config: of the network.
        features: of the first slice of each of B sequences.
        direction: (B,) +1 when slices come in rising order, -1 when falling, 0 (default) when unknown.
    """
    batch, _, height, width = features.mask.shape
    k, device = config.num_classes, features.mask.device
    return PropagationState(
        centres=torch.zeros(batch, k, config.dim, device=device),
        known=torch.zeros(batch, k, device=device),
        missed=torch.zeros(batch, k, device=device),
        masks=torch.zeros(batch, k, height, width, device=device),
        prompt_centres=torch.zeros(batch, k, config.dim, device=device),
        prompted=torch.zeros(batch, k, device=device),
        direction=torch.zeros(batch, device=device) if direction is None else direction,
    )


class S2VNet(nn.Module):
    """One 2D network for automatic and interactive segmentation of volumes, every class at once."""

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
        # the only convolution of the decoder, and depthwise: a prompt must cost little next to encoding a slice
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
        """Slices must be a multiple of this in height and width."""
        return self.config.stem_stride * 8

    def encode_slices(self, slices: Tensor) -> Sequence[Features]:
        """Slices (N, C, H, W), each with its neighbours as channels, to the features of each, in inference."""
        whole = self.encode(slices)
        return [whole.select(slice(n, n + 1)) for n in range(len(slices))]

    def encode(self, slices: Tensor) -> Features:
        """Slices (N, C, H, W), each with its neighbours as channels, to features; slices are independent."""
        return self.features_from_maps(self.encoder(slices))

    def features_from_maps(self, maps: Sequence[Tensor]) -> Features:
        """The encoder's maps (N, c, h, w), finest first, to features."""
        mask, pyramid = self.pixel_decoder(maps)
        pixels = [pyramid[index // self.config.layers_per_level] for index in range(len(self.layers))]
        described = [layer.keys_and_values(x) for layer, x in zip(self._clustering, pixels, strict=True)]
        # decoding goes pixel by pixel, and a depthwise convolution is ten times faster on this layout
        mask = to_fast_memory_format(mask)
        return Features(mask, tuple(keys for keys, _ in described), tuple(values for _, values in described))

    def auxiliary(self, features: Features) -> Tensor:
        """Class logits (N, K, h, w) of the pixel decoder alone: supervise it, and underlie the masks if configured."""
        logits: Tensor = self.pixel_decoder.auxiliary(features.mask)
        return logits

    def initial_state(self, features: Features, direction: Tensor | None = None) -> PropagationState:
        """See :func:`initial_state`."""
        return initial_state(self.config, features, direction)

    def decode_slices(self, rows: Sequence[SliceInput]) -> list[DecoderOutput]:
        """Segment some slices, of which none knows of the others, in inference.

        On a CPU each goes by itself, so that it depends on the others by no rounding; and one for which no prompt is
        carried leaves out the rows of prompts. On a GPU they go together, since starting its kernels takes longest.
        """
        if rows[0].features.mask.device.type == "cpu":
            return [self._decode_row(row) for row in rows]
        return self._decode_together(rows)

    def _decode_together(self, rows: Sequence[SliceInput]) -> list[DecoderOutput]:
        shown = [*rows, *rows] if len(rows) == 1 else rows  # by itself one would be summed in another order
        features = Features.from_tensors(
            [torch.cat(parts) for parts in zip(*(r.features.tensors for r in shown), strict=True)]
        )
        state = PropagationState(*(torch.cat(parts) for parts in zip(*(r.state for r in shown), strict=True)))
        some = next((r.prompts for r in shown if r.prompts is not None), None)
        prompts = (
            None
            if some is None
            else torch.cat([torch.zeros_like(some) if r.prompts is None else r.prompts for r in shown])
        )
        return self.decode(features, state, prompts).split()[: len(rows)]

    def _decode_row(self, row: SliceInput) -> DecoderOutput:
        prompts = row.prompts if row.prompted else None
        return self.decode(row.features, row.state, prompts, carried=row.carried)

    def decode(
        self, features: Features, state: PropagationState, prompts: Tensor | None, *, carried: bool = True
    ) -> DecoderOutput:
        """Segment B slices.

        Args:
            features: of B slices.
            state: what the slice before left behind (:meth:`initial_state` for the first).
            prompts: (B, K, 4, h, w) maps of :func:`s2vnet.model.prompt_encoder.rasterize_prompts`. None is equivalent
                to zeros, bit for bit, and faster.
            carried: False says that the state carries no prompt's centre. Without prompts, prompt rows are left out
                then, which changes nothing but roundings.
        """
        k = self.config.num_classes
        prior = state.masks if self.config.mask_prior else torch.zeros_like(state.masks)
        before = _pyramid(prior, features.keys, F.avg_pool2d)
        positive: Sequence[Tensor | None] = [None] * (1 + len(before))
        if prompts is not None:  # by maxima, since a click must survive on coarse maps
            positive = [*_pyramid(prompts[:, :, 0], features.keys, F.max_pool2d), prompts[:, :, 0]]
        valid: Tensor | None = None
        if prompts is None and not carried:
            centres, fresh = self._slots(state), torch.zeros_like(state.prompted)
            identity: Tensor = self.identity
        else:
            centres, valid, fresh = self._initial_rows(features, state, positive)
            identity = torch.cat([self.identity, self.identity + self.prompt_identity])
        layer_logits = []
        described = zip(features.keys, features.values, strict=True)
        for layer, pair, seen, force in zip(self._clustering, described, before, positive[:-1], strict=True):
            centres, affinity = layer(centres, identity, valid, pair, seen, force)
            layer_logits.append(class_logits(affinity, k))
        pixels = self._pixels(features.mask, prior, prompts)
        logits = self._masks(pixels, centres, valid)
        if self.config.auxiliary_masks:
            logits = logits + self.auxiliary(features)
        presence = self.presence(centres[:, :k]).squeeze(-1)
        state = self.aggregator(state, centres, fresh, presence, logits)
        return DecoderOutput(logits, presence, tuple(layer_logits), state)

    def _slots(self, state: PropagationState) -> Tensor:
        """Slot rows (B, K, d) from the state, or the learned centres."""
        known = state.known[..., None]
        slots: Tensor = self.centre_norm(known * state.centres + (1 - known) * self.initial_centres)
        return slots + state.direction[:, None, None] * self.travel

    def _initial_rows(
        self, features: Features, state: PropagationState, positive: Sequence[Tensor | None]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Slot rows, and prompt rows from the features under prompts, here or before.

        Also which rows (B, 2K) take part, and which classes (B, K) are prompted here.

        `positive` holds the positive prompt maps on the grid of each layer and, last, of the mask features; or None.
        """
        slots = self._slots(state)
        rows, prompted = self.centre_norm(state.prompt_centres), torch.zeros_like(state.prompted)
        if positive[-1] is not None:
            levels = zip((*features.values, features.mask), positive, strict=True)
            pooled = [_pool(level, maps) for level, maps in levels if maps is not None]
            prompted = (positive[-1].amax((-2, -1)) > 0.5).to(slots.dtype)
            # half the new prompt's centre and half the carried one's where there are both
            share = (prompted / (prompted + state.prompted).clamp_min(1))[..., None]
            rows = share * self.prompt_centre(torch.cat(pooled, -1)) + (1 - share) * rows
        valid = torch.cat([torch.ones_like(prompted), torch.maximum(prompted, state.prompted)], 1)
        return torch.cat([slots, rows], 1), valid, prompted

    def _pixels(self, features: Tensor, prior: Tensor, prompts: Tensor | None) -> Tensor:
        """Mask features (B, M, h, w) to pixels (B, h, w, M) that know of prior and prompts.

        Prior (B, K, h, w) and prompt maps are drawn into the features in the colour of their class.
        """
        colours = self.map_embedding(self.identity).unflatten(-1, (-1, self.config.mask_dim))  # (K, maps, M)
        pixels = features.permute(0, 2, 3, 1)
        drawn = pixels + _painted(prior, colours[:, 0], pixels)
        if prompts is not None:
            drawn = drawn + _painted(prompts.flatten(1, 2), colours[:, 1:].flatten(0, 1), pixels)
        blended: Tensor = self.fuse(depthwise_conv(self.surround, drawn.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return pixels + blended

    def _masks(self, pixels: Tensor, centres: Tensor, valid: Tensor | None) -> Tensor:
        """Class logits (B, K, h, w): centres times pixels."""
        m = self.config.mask_dim
        weights, bias = self.mask_head(centres).split([m, 1], -1)
        if valid is not None:
            bias = bias + ((1 - valid) * INVALID_AFFINITY)[..., None]
        rows = torch.baddbmm(bias, weights / m**0.5, pixels.flatten(1, 2).transpose(1, 2))
        return class_logits(rows.unflatten(-1, pixels.shape[1:3]), self.config.num_classes)


def _pyramid(maps: Tensor, levels: Sequence[Tensor], pool: Callable[[Tensor, int], Tensor]) -> list[Tensor]:
    """Maps (B, K, h, w) on the grid of each level, coarsest first; each level halves the next one, or is like it."""
    found: list[Tensor] = []
    for level in reversed(levels):
        while maps.shape[-2:] != level.shape[-2:]:
            maps = pool(maps, 2)
        found.insert(0, maps)
    return found


def _painted(maps: Tensor, colours: Tensor, pixels: Tensor) -> Tensor:
    """Maps (B, n, h, w) in their colours (n, M), laid out like pixels (B, h, w, M)."""
    return (maps.flatten(2).transpose(1, 2) @ colours).view_as(pixels)


def _pool(pixels: Tensor, weights: Tensor) -> Tensor:
    """Mean of pixels (B, c, h, w) under weights (B, K, h, w): (B, K, c); zero where the weights are."""
    total = weights.sum((-2, -1))[..., None]
    return weights.flatten(2) @ pixels.permute(0, 2, 3, 1).flatten(1, 2) / (total + 1e-4)
