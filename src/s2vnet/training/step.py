"""Training step as a module, so that data-parallel wrappers see a single forward pass."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import Executor

import numpy as np
import torch
from torch import Tensor, nn

from s2vnet.config import TrainConfig
from s2vnet.model.aggregation import PropagationState
from s2vnet.model.clustering import argmax_class
from s2vnet.model.interface import DecoderOutput
from s2vnet.model.pixel_decoder import Features
from s2vnet.model.prompt_encoder import PROMPT_MAPS
from s2vnet.model.propagation import propagate
from s2vnet.model.s2vnet import S2VNet
from s2vnet.training.losses import clip_loss, downsample_labels, segmentation_loss, upsample_logits
from s2vnet.training.simulated_prompts import simulate_prompts


class ClipStep(nn.Module):
    """Training step from clips to loss: encode, simulate prompts, propagate with gradient, compare with labels."""

    weights: Tensor | None

    def __init__(self, model: S2VNet, config: TrainConfig, weights: Tensor | None = None) -> None:
        """Create the step; `weights` (K,) are those of :func:`s2vnet.training.losses.class_weights`."""
        super().__init__()
        self.register_buffer("weights", weights, persistent=False)
        self.model = model
        self.config = config
        self.executor: Executor | None = None
        """Worker processes for simulated users, so that a GPU does not wait for their work on the CPU."""

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
        prompted = self._interactive_clips(rngs, indices)
        prompts, prompted_errors = self._simulate_prompts(features.detach(), labels, steps, rngs, prompted)
        resets = self._draw_resets(rngs, length, slices.device)
        decoded = self._propagate(features, prompts, steps, resets)
        auxiliary = self.model.auxiliary(encoded).unflatten(0, (batch, length))
        return clip_loss(decoded, auxiliary, labels, self.config, self.weights, prompted_errors)

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

    def _interactive_clips(self, rngs: Sequence[np.random.Generator], indices: Tensor) -> list[int]:
        """Draw the clips that are trained with a simulated user; the others are trained in automatic mode."""
        config = self.config
        first = config.interactive_start * config.epochs * config.steps_per_epoch * config.batch_size
        chance = [config.interactive_fraction * (int(i) >= first) for i in indices]
        return [b for b, rng in enumerate(rngs) if rng.random() < chance[b]]

    def _simulate_prompts(
        self,
        features: Features,
        labels: Tensor,
        steps: Tensor,
        rngs: list[np.random.Generator],
        chosen: list[int],
    ) -> tuple[Tensor, Tensor]:
        """Prompt maps (B, T, K, 4, h, w) and the prompted errors (B, T, h, w); zero except for chosen clips."""
        batch, length = labels.shape[:2]
        size = features.mask.shape[-2:]
        k = self.model.config.num_classes
        maps = torch.zeros(batch, length, k, PROMPT_MAPS, *size, device=labels.device)
        prompted_errors = maps.new_zeros(batch, length, *size)
        if not chosen:
            return maps, prompted_errors
        some, truth, strides = features.select(chosen), downsample_labels(labels[chosen], size), steps[chosen]

        @torch.no_grad()
        def predict(prompts: Tensor, clips: list[int]) -> Tensor:
            decoded = self._propagate(some.select(clips), prompts, strides[clips], None)
            return torch.stack([argmax_class(d.logits) for d in decoded], 1)

        users = [rngs[b] for b in chosen]
        maps[chosen], prompted_errors[chosen] = simulate_prompts(
            predict, truth, strides, self.model.config, self.config, users, self.executor
        )
        return maps, prompted_errors

    def _draw_resets(self, rngs: list[np.random.Generator], length: int, device: torch.device) -> Tensor:
        """Draw carried centres (T, B, K) to drop (1), so that a class can start on any slice."""
        config, k = self.config, self.model.config.num_classes
        drawn = np.stack([rng.random((length, k)) < config.state_drop for rng in rngs], 1)
        return torch.from_numpy(drawn).float().to(device)

    def _propagate(
        self, features: Features, prompts: Tensor, steps: Tensor, resets: Tensor | None
    ) -> list[DecoderOutput]:
        """Decode clips (B, T, ...) slice by slice."""
        number = itertools.count()

        def decode(slices: Features, state: PropagationState, maps: Tensor | None) -> DecoderOutput:
            if resets is not None:
                state = state.reset(resets[next(number)])
            return self.model.decode(slices, state, maps)

        sequence = list(zip(features.unbind(), prompts.unbind(1), strict=True))
        state = self.model.initial_state(sequence[0][0], steps.sign().to(prompts.dtype))
        return list(propagate(decode, sequence, state))
