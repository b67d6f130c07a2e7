"""A 3D U-Net with click and previous-mask channels, after DeepEdit and RITM.

DeepEdit (arXiv 2305.10655): a Gaussian per click in a channel per class, trained with and without clicks. RITM (arXiv
2102.06583): the previous mask is an input, and training simulates several rounds of clicks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers.batches import Batches, pad_to
from benchmarks.peers.inference import segment_volume
from benchmarks.peers.networks import Patch
from benchmarks.peers.training import deep_supervision_loss
from s2vnet.config import TrainConfig
from s2vnet.data.plan import Plan
from s2vnet.data.preprocess import Case
from s2vnet.evaluation.simulated_clicks import next_click
from s2vnet.inference.postprocessing import remove_detached_parts
from s2vnet.inference.segmentation import Segmentation
from s2vnet.metrics.overlap_and_distance import Labels
from s2vnet.prompts import Point

SIGMA = 2.0
"""Standard deviation of a click's Gaussian, in voxels of the network's grid."""
CLICKED_FRACTION, MAX_ROUNDS = 0.6, 4
"""Fraction of training batches with simulated clicks, and their largest number of rounds."""
RADIUS = 6
"""Voxels to which a click's Gaussian is truncated."""


def input_channels(image_channels: int, classes: int) -> int:
    """Number of input channels: image, clicks of each class, previous mask of each class."""
    return image_channels + 2 * classes


def draw_click(maps: Tensor, class_id: int, voxel: Sequence[int]) -> None:
    """Draw a click at a voxel (d, y, x) into click maps (K, D, H, W); clicks outside are ignored."""
    bounds = [(max(0, c - RADIUS), min(n, c + RADIUS + 1)) for c, n in zip(voxel, maps.shape[1:], strict=True)]
    if all(start < stop for start, stop in bounds):
        ranges = [torch.arange(start, stop) for start, stop in bounds]
        squares = [(r - c) ** 2 for r, c in zip(ranges, voxel, strict=True)]
        distance = squares[0][:, None, None] + squares[1][:, None] + squares[2]
        depth, rows, columns = (slice(start, stop) for start, stop in bounds)
        window = maps[class_id, depth, rows, columns]
        window.copy_(torch.maximum(window, torch.exp(-distance / (2 * SIGMA**2))))


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Labels (N, D, H, W) as channels (N, K, D, H, W)."""
    return F.one_hot(labels.long(), classes).movedim(-1, 1).float()


class ClickObjective:
    """Training objective: a share of batches without clicks, the others after a random number of simulated rounds."""

    def __init__(self, batches: Batches, classes: int, config: TrainConfig, device: torch.device) -> None:
        self.batches, self.classes, self.config, self.device = batches, classes, config, device

    def __call__(self, network: nn.Module, step: int) -> Tensor:
        """Loss of a step."""
        image, labels = self.batches(step)
        rng = np.random.default_rng((self.config.seed, step, 1))
        maps = torch.zeros(len(image), self.classes, *image.shape[2:])
        previous = torch.zeros_like(maps)
        rounds = int(rng.integers(1, MAX_ROUNDS + 1))
        if rng.random() >= CLICKED_FRACTION:
            rounds = 0
        for _ in range(rounds):
            with torch.no_grad():
                predicted = network(self._input(image, maps, previous)).argmax(1).cpu()
            for n in range(len(image)):
                self._click(maps[n], predicted[n].numpy(), labels[n, 0].numpy(), rng)
            previous = one_hot(predicted, self.classes)
        return deep_supervision_loss(network(self._input(image, maps, previous)), labels.to(self.device))

    def _click(self, maps: Tensor, predicted: Labels, truth: Labels, rng: np.random.Generator) -> None:
        """Draw one simulated click per class of the truth into click maps (K, D, H, W)."""
        for class_id in np.unique(truth[truth > 0]).tolist():
            click = next_click(predicted, truth, class_id, rng=rng)
            if click is not None:
                draw_click(maps, click.class_id, click.voxel)

    def _input(self, *parts: Tensor) -> Tensor:
        return torch.cat(parts, 1).to(self.device)


class ClickSession:
    """Session of a case (:class:`s2vnet.evaluation.protocol.InteractiveSession`); clicks are in voxels of the image."""

    def __init__(self, network: nn.Module, case: Case, plan: Plan, patch: Patch, device: torch.device) -> None:
        self.network, self.case, self.plan, self.patch, self.device = network, case, plan, patch, device
        self.class_names = {value: name for name, value in plan.labels.items()}
        self.clicked: dict[int, list[list[int]]] = {}
        """Clicked voxels (d, y, x) of the network's grid by class."""
        # padded before click maps are created: as in training, the previous mask includes the padding and clicks do not
        self.image = pad_to(torch.from_numpy(case.image), patch)
        self.maps = torch.zeros(plan.num_classes, *self.image.shape[1:])
        self.previous = torch.zeros_like(self.maps)
        self._segment()

    @property
    def labels(self) -> npt.NDArray[np.uint8]:
        """Current class of each voxel (I, J, K)."""
        return self._labels

    def add_round(self, points: Sequence[Point]) -> None:
        """Add one round of clicks and segment again."""
        for point in points:
            voxel = [round(c) for c in self.case.grid.voxels_to_pixels([point.voxel])[0]]
            draw_click(self.maps, point.class_id, voxel)
            self.clicked.setdefault(point.class_id, []).append(voxel)
        self.previous = one_hot(self._scores.argmax(1)[None], self.plan.num_classes)[0]
        self._segment()

    def _segment(self) -> None:
        network_input = torch.cat([self.image, self.maps, self.previous])
        self._scores = segment_volume(self.network, network_input, self.patch, self.device)
        depth, height, width = self.case.image.shape[1:]
        clicked = {class_id: np.array(voxels) for class_id, voxels in self.clicked.items()}
        scores = remove_detached_parts(self._scores[:depth, :, :height, :width], self.plan.smallest_part, clicked)
        self.segmentation = Segmentation(self.case.grid, scores, self.class_names)
        self._labels = self.segmentation.labels().data.astype(np.uint8)
