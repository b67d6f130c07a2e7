"""Training step as a module, so that data-parallel wrappers see a single forward pass."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from s2vnet.config import TrainConfig
from s2vnet.model.aggregation import PropagationState
from s2vnet.model.interface import DecoderOutput
from s2vnet.model.pixel_decoder import Features
from s2vnet.model.propagation import propagate
from s2vnet.model.s2vnet import S2VNet
from s2vnet.training.losses import clip_loss, segmentation_loss, upsample_logits


class ClipStep(nn.Module):
    """Training step from clips to loss: encode, propagate with gradient, compare with labels."""

    weights: Tensor | None

    def __init__(self, model: S2VNet, config: TrainConfig, weights: Tensor | None = None) -> None:
        """Create the step; `weights` (K,) are those of :func:`s2vnet.training.losses.class_weights`."""
        super().__init__()
        self.register_buffer("weights", weights, persistent=False)
        self.model = model
        self.config = config

    def forward(self, slices: Tensor, labels: Tensor, steps: Tensor, indices: Tensor) -> Tensor:
        """Compute the mean loss over clips.

        Args:
            slices: (B, T, C, H, W).
            labels: (B, T, H, W).
            steps: (B,) signed slice step; 0 for independent slices, which train the auxiliary logits alone.
            indices: (B,) clip numbers, which seed all random choices for a clip.
        """
        batch, length = slices.shape[:2]
        encoded = self.model.features_from_maps(self._drop_channels(self.model.encoder(slices.flatten(0, 1)), indices))
        if not steps.any():
            auxiliary = self.model.auxiliary(encoded).unflatten(0, (batch, length)).transpose(1, 2)
            return segmentation_loss(upsample_logits(auxiliary, labels), labels, self.weights)
        features = encoded.unflatten(batch)
        rngs = [np.random.default_rng((self.config.seed, int(i), 1)) for i in indices]
        resets = self._draw_resets(rngs, length, slices.device)
        decoded = self._propagate(features, steps, resets)
        auxiliary = self.model.auxiliary(encoded).unflatten(0, (batch, length))
        return clip_loss(decoded, auxiliary, labels, self.config, self.weights)

    def _drop_channels(self, maps: Sequence[Tensor], indices: Tensor) -> list[Tensor]:
        """Apply channel dropout to each slice of the encoder's maps (B * T, c, h, w), and rescale the rest.

        Seeded by clip numbers, so that resumed runs and several processes agree.
        """
        chance = self.config.feature_dropout
        channels = [x.shape[1] for x in maps]
        shape = (len(maps[0]) // len(indices), sum(channels))
        drawn = np.stack([np.random.default_rng((self.config.seed, int(i), 2)).random(shape) for i in indices])
        keep = torch.from_numpy((drawn >= chance).reshape(-1, shape[1]) / (1 - chance)).to(maps[0])
        return [x * k[..., None, None] for x, k in zip(maps, keep.split(channels, 1), strict=True)]

    def _draw_resets(self, rngs: list[np.random.Generator], length: int, device: torch.device) -> Tensor:
        """Draw carried centres (T, B, K) to drop (1), so that a class can start on any slice."""
        config, k = self.config, self.model.config.num_classes
        drawn = np.stack([rng.random((length, k)) < config.state_drop for rng in rngs], 1)
        return torch.from_numpy(drawn).float().to(device)

    def _propagate(self, features: Features, steps: Tensor, resets: Tensor) -> list[DecoderOutput]:
        """Decode clips (B, T, ...) slice by slice."""
        number = itertools.count()

        def decode(slices: Features, state: PropagationState) -> DecoderOutput:
            return self.model.decode(slices, state.reset(resets[next(number)]))

        sequence = features.unbind()
        state = self.model.initial_state(sequence[0], steps.sign().to(resets.dtype))
        return list(propagate(decode, sequence, state))
