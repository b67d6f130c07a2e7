"""A 3D U-Net that takes clicks as channels, and its own last answer: after DeepEdit and RITM.

DeepEdit (arXiv 2305.10655): a Gaussian per click in a channel per class, trained with and without clicks. RITM (arXiv
2102.06583): the previous mask is an input too, and clicks are simulated in turns while training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opponents import Batch, Patch, compare, padded, segment_volume
from s2vnet.config import TrainConfig
from s2vnet.data.plan import Plan
from s2vnet.data.preprocess import Case
from s2vnet.evaluation.clicks import next_click
from s2vnet.inference.postprocessing import remove_detached_parts
from s2vnet.inference.segmenter import Segmentation
from s2vnet.prompts import Point

SIGMA = 2.0
"""Of a click, cells."""
REACH = 6


def channels_of(image_channels: int, classes: int) -> int:
    """Input channels: image, clicks of each class, previous mask of each class."""
    return image_channels + 2 * classes


def place(maps: Tensor, class_id: int, cell: Sequence[int]) -> None:
    """Draw a click at a cell (d, y, x) into maps (K, D, H, W)."""
    near = [(max(0, c - REACH), min(n, c + REACH + 1)) for c, n in zip(cell, maps.shape[1:], strict=True)]
    if all(start < stop for start, stop in near):
        ranges = [torch.arange(start, stop) for start, stop in near]
        squares = [(r - c) ** 2 for r, c in zip(ranges, cell, strict=True)]
        distance = squares[0][:, None, None] + squares[1][:, None] + squares[2]
        depth, rows, columns = (slice(start, stop) for start, stop in near)
        window = maps[class_id, depth, rows, columns]
        window.copy_(torch.maximum(window, torch.exp(-distance / (2 * SIGMA**2))))


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Labels (N, D, H, W) as channels (N, K, D, H, W)."""
    return F.one_hot(labels.long(), classes).movedim(-1, 1).float()


class Clicked:
    """The objective: some batches without clicks, the others after a random number of rounds of a simulated user's."""

    def __init__(
        self, batches: Callable[[int], Batch], classes: int, config: TrainConfig, device: torch.device
    ) -> None:
        self.batches, self.classes, self.config, self.device = batches, classes, config, device

    def __call__(self, network: nn.Module, step: int) -> Tensor:
        """Loss of a step."""
        image, labels = self.batches(step)
        rng = np.random.default_rng((self.config.seed, step, 1))
        maps = torch.zeros(len(image), self.classes, *image.shape[2:])
        previous = torch.zeros_like(maps)
        rounds = int(rng.integers(1, self.config.max_correction_rounds + 1))
        if rng.random() >= self.config.interactive_fraction:
            rounds = 0
        for _ in range(rounds):
            with torch.no_grad():
                predicted = network(self._input(image, maps, previous)).argmax(1).cpu()
            for n in range(len(image)):
                said, truth = predicted[n].numpy(), labels[n, 0].numpy()
                for class_id in np.unique(truth[truth > 0]).tolist():
                    click = next_click(said, truth, class_id, rng=rng)
                    if click is not None:
                        place(maps[n], click.class_id, click.voxel)
            previous = one_hot(predicted, self.classes)
        return compare(network(self._input(image, maps, previous)), labels.to(self.device))

    def _input(self, *parts: Tensor) -> Tensor:
        return torch.cat(parts, 1).to(self.device)


class ClickSession:
    """A case that clicks correct (:class:`s2vnet.evaluation.protocol.InteractiveSession`); voxels are the file's."""

    def __init__(self, network: nn.Module, case: Case, plan: Plan, patch: Patch, device: torch.device) -> None:
        self.network, self.case, self.plan, self.patch, self.device = network, case, plan, patch, device
        self.class_names = {value: name for name, value in plan.labels.items()}
        self.named: dict[int, list[list[int]]] = {}
        # grown before there are maps: as in training, no click lies in the padding, and the last answer covers it
        self.image = padded(torch.from_numpy(case.image), patch)
        self.maps = torch.zeros(plan.num_classes, *self.image.shape[1:])
        self.previous = torch.zeros_like(self.maps)
        self._segment()

    @property
    def labels(self) -> npt.NDArray[np.uint8]:
        """Current class of each voxel (I, J, K)."""
        return self._labels

    def add_round(self, points: Sequence[Point]) -> None:
        """Take one round of clicks."""
        for point in points:
            cell = self.case.grid.voxels_to_pixels([point.voxel])[0]
            place(self.maps, point.class_id, [round(c) for c in cell])
            self.named.setdefault(point.class_id, []).append([round(c) for c in cell])
        self.previous = one_hot(self._scores.argmax(1)[None], self.plan.num_classes)[0]
        self._segment()

    def _segment(self) -> None:
        given = torch.cat([self.image, self.maps, self.previous])
        self._scores = segment_volume(self.network, given, self.patch, self.device)
        depth, height, width = self.case.image.shape[1:]
        named = {class_id: np.array(cells) for class_id, cells in self.named.items()}
        scores = remove_detached_parts(self._scores[:depth, :, :height, :width], self.plan.smallest_part, named)
        self.segmentation = Segmentation(self.case.grid, scores, self.class_names)
        self._labels = self.segmentation.labels().data.astype(np.uint8)
