"""Training of the corrector on simulated corrections."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from s2vnet.data.preprocess import Case, with_neighbours
from s2vnet.inference.correction_maps import SegmentedVolume
from s2vnet.inference.encoded_volume import PreviewBatch, interleaved_batches
from s2vnet.model.corrector import Corrector
from s2vnet.model.interface import Network
from s2vnet.training.checkpointed_steps import REPORT_EVERY, run_steps
from s2vnet.training.correction_episodes import (
    RADII,
    Correction,
    EpisodeConfig,
    EpisodeSampler,
    LabelledVolume,
    Part,
    Predictor,
    find_parts,
)
from s2vnet.training.correction_loss import correction_loss
from s2vnet.utils.atomic_write import atomic_write

Report = Callable[[dict[str, float]], object]


@dataclass(frozen=True)
class CorrectorTraining:
    """Settings of a training of the corrector."""

    steps: int
    batch_size: int = 2
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    warmup_steps: int = 100
    average_decay: float = 0.998
    bf16: bool = False
    seed: int = 0
    checkpoint_minutes: float = 3.0


@torch.inference_mode()
def segment_slices_independently(network: Network, case: Case, context: int, batch_size: int = 8) -> SegmentedVolume:
    """Encode and decode each slice by itself; errors on training cases are then like those on other cases.

    Args:
        network: network in eval mode.
        case: preprocessed case with D slices.
        context: neighbouring slices of the network's input.
        batch_size: slices at once.
    """
    depth = case.image.shape[1]
    probabilities: list[Tensor | None] = [None] * depth
    features: list[Tensor | None] = [None] * depth
    for indices in interleaved_batches(depth, batch_size):
        batch = torch.from_numpy(with_neighbours(case.image, indices, context))
        preview = PreviewBatch.compute(network, indices, batch)
        scores = preview.decoded.logits.softmax(1)
        for n, d in enumerate(indices):
            probabilities[d], features[d] = scores[n].half(), preview.features[n].mask[0].half()
    image = torch.from_numpy(case.image.mean(0)).half()
    return SegmentedVolume(image, torch.stack(probabilities), torch.stack(features), case.grid.slice_distance)  # type: ignore[arg-type]


def labelled_volume(volume: SegmentedVolume, truth: np.ndarray[Any, np.dtype[np.uint8]]) -> LabelledVolume:
    """Present labels and errors of a segmented volume with its ground truth (D, H, W)."""
    size = truth.shape[1:]
    labels = torch.stack(
        [
            torch.nn.functional.interpolate(p[None].float(), size=size, mode="bilinear")[0].argmax(0).byte()
            for p in volume.probabilities
        ]
    )
    parts = [part for radius in (RADII[0], RADII[-1]) for part in find_parts(labels.numpy(), truth, radius)]
    return LabelledVolume(volume, labels, torch.from_numpy(truth), parts)


def save_volume(path: Path, labelled: LabelledVolume) -> None:
    """Write a labelled volume as safetensors."""
    from safetensors.torch import save_file

    volume = labelled.volume
    parts = [
        [p.label, p.missed, p.size, p.radius, *(v for s in p.box for v in (s.start, s.stop))] for p in labelled.parts
    ]
    tensors = {
        "image": volume.image,
        "probabilities": volume.probabilities,
        "features": volume.features,
        "labels": labelled.labels,
        "truth": labelled.truth,
        "slice_distance": torch.tensor(volume.slice_distance),
        "parts": torch.tensor(parts, dtype=torch.int32).reshape(-1, 10),
    }
    with atomic_write(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)


def load_volume(path: Path) -> LabelledVolume:
    """Read a labelled volume; its tensors are mapped from the file."""
    from safetensors.torch import load_file

    t = load_file(path)
    parts = [
        Part(r[0], bool(r[1]), (slice(r[4], r[5]), slice(r[6], r[7]), slice(r[8], r[9])), r[2], r[3])
        for r in t["parts"].tolist()
    ]
    volume = SegmentedVolume(t["image"], t["probabilities"], t["features"], float(t["slice_distance"]))
    return LabelledVolume(volume, t["labels"], t["truth"], parts)


class CorrectorTrainer:
    """Training loop of the corrector; a step's corrections depend on the seed and the step only."""

    def __init__(
        self,
        volumes: Sequence[LabelledVolume],
        config: CorrectorTraining,
        episodes: EpisodeConfig,
        widths: Sequence[int] = (32, 64, 128),
    ) -> None:
        """Create an untrained corrector and its optimiser."""
        torch.manual_seed(config.seed)
        self.config = config
        self.network = Corrector(widths)
        self.average = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(config.average_decay))
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay
        )
        self.sampler = EpisodeSampler(volumes, episodes)
        self.step = 0
        self.cpu_seconds = 0.0

    def fit(self, checkpoint: Path, report: Report, every: int = REPORT_EVERY) -> Corrector:
        """Train to the end, from the checkpoint if there is one. Raises KeyboardInterrupt after saving."""
        if checkpoint.exists():
            self._load(checkpoint)
        minutes = self.config.checkpoint_minutes
        run_steps(self, self.config.steps, self._take_step, lambda: self._save(checkpoint), report, minutes, every)
        return cast(Corrector, self.average.module).eval()

    def _take_step(self) -> float:
        """Take one optimizer step on a batch of corrections; return the loss."""
        config = self.config
        rng = np.random.default_rng((config.seed, self.step))
        rate = config.learning_rate * min(1.0, (self.step + 1) / config.warmup_steps)
        rate *= 0.5 * (1 + math.cos(math.pi * self.step / config.steps)) * 0.98 + 0.02
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):
            self.network.eval()
            batch = [self.sampler.draw(rng, Predictor(self.network)) for _ in range(config.batch_size)]
            self.network.train()
            logits = self.network(*_stack(batch))
        loss = correction_loss(
            logits.float(), *(torch.stack(parts) for parts in zip(*(c[1:] for c in batch), strict=True))
        )
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.average.update_parameters(self.network)
        return float(loss.detach())

    def _save(self, path: Path) -> None:
        parts = {name: getattr(self, name).state_dict() for name in ("network", "optimizer", "average")}
        with atomic_write(path) as temporary:
            torch.save({**parts, "step": self.step, "cpu_seconds": self.cpu_seconds}, temporary)

    def _load(self, path: Path) -> None:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        for name in ("network", "optimizer", "average"):
            getattr(self, name).load_state_dict(stored[name])
        self.step, self.cpu_seconds = stored["step"], stored["cpu_seconds"]


def _stack(batch: Sequence[Correction]) -> tuple[Tensor, Tensor]:
    return torch.stack([c.maps.pixels for c in batch]), torch.stack([c.maps.cells for c in batch])
