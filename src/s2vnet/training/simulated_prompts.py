"""A simulated user for training: prompts where the network's own prediction is wrong, or where organs are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from s2vnet.config import ModelConfig, TrainConfig
from s2vnet.model.prompt_encoder import GridPrompt, PromptRasterizer
from s2vnet.utils.components import CONNECTIVITY_26, bounding_box

Labels = npt.NDArray[np.integer]
Predict = Callable[[Tensor, list[int]], Tensor]
"""Prompt maps (n, T, K, 4, h, w) of some clips, and their numbers, to predicted classes (n, T, h, w)."""


def simulate_prompts(
    predict: Predict,
    labels: Tensor,
    steps: Tensor,
    network: ModelConfig,
    config: TrainConfig,
    rngs: list[np.random.Generator],
    helpers: Executor | None = None,
) -> tuple[Tensor, Tensor]:
    """Prompt maps (B, T, K, 4, h, w) after a random number of rounds of each clip's own user, and what they ask for.

    The latter (B, T, h, w) is 1 in the errors that were prompted on, in all of each and on every slice of the clip.

    Some users prompt before they see anything; afterwards all correct the largest error of each class, as the
    evaluation protocol does (CVPR 2025 interactive challenge). Some of them know only the slice that the clip begins
    with: what they show there has to find its own way to the other slices.

    Args:
        predict: the network without gradient.
        labels: (B, T, h, w) truth on the mask grid.
        steps: (B,) signed slice step of each clip.
        network: for the number of classes, and how far prompts reach.
        config: what users do.
        rngs: one generator per clip.
        helpers: processes in which users look for errors; nothing depends on whether there are any.
    """
    _, length, height, width = labels.shape
    num_classes = network.num_classes
    truth = _small(labels, num_classes)
    seen = [1 if rng.random() < config.first_slice_fraction else length for rng in rngs]
    strokes: list[list[GridPrompt]] = [
        _first_prompts(t[:count], num_classes, rng) if rng.random() < 0.3 else []
        for t, count, rng in zip(truth, seen, rngs, strict=True)
    ]
    most = config.max_correction_rounds
    rounds = [int(rng.integers(0 if s else 1, most + 1)) for s, rng in zip(strokes, rngs, strict=True)]
    positions = torch.arange(length) * steps.abs().cpu()[:, None]
    size, k = (height, width), num_classes
    canvases = [PromptRasterizer(places.float(), k, size, network.prompt_reach, labels.device) for places in positions]

    def give(clip: int, strokes: list[GridPrompt]) -> None:
        for stroke in strokes:
            canvases[clip].add(_placed(stroke, positions[clip]))

    for b, first in enumerate(strokes):
        give(b, first)
    asked = np.zeros(truth.shape, np.float32)
    chance = config.correction_fraction
    for number in range(max(rounds)):
        going = [b for b, wanted in enumerate(rounds) if number < wanted]
        maps = torch.stack([canvases[b].maps() for b in going])
        predicted = _small(predict(maps, going), k)
        jobs = [_Look(p, truth[b], seen[b], k, chance, rngs[b]) for b, p in zip(going, predicted, strict=True)]
        found = map(_look, jobs) if helpers is None else helpers.map(_look, jobs)
        for b, (more, errors, generator) in zip(going, found, strict=True):
            rngs[b].bit_generator.state = generator
            give(
                b,
                [
                    GridPrompt(class_id, positive, torch.from_numpy(cells), kind)
                    for class_id, positive, cells, kind in more
                ],
            )
            asked[b][errors] = 1
    return torch.stack([canvas.maps() for canvas in canvases]), torch.from_numpy(asked).to(labels.device)


def _small(labels: Tensor, num_classes: int) -> Labels:
    """Labels as small integers, since they travel between devices and processes."""
    return labels.to(torch.uint8 if num_classes <= 256 else torch.int16).cpu().numpy()


class _Look(NamedTuple):
    """What a user sees, and who it is."""

    predicted: Labels
    truth: Labels
    seen: int
    num_classes: int
    chance: float
    rng: np.random.Generator


_Packed = tuple[int, bool, npt.NDArray[np.float32], Literal["point", "region", "box"]]
"""A stroke without tensors: these cost a file descriptor each on their way between processes."""


def _look(job: _Look) -> tuple[list[_Packed], npt.NDArray[np.bool_], Mapping[str, Any]]:
    """What a user prompts, the errors that it is about, and the state of the user's generator afterwards."""
    strokes, errors = _corrections(*job)
    packed = [(s.class_id, s.positive, s.cells.numpy(), s.kind) for s in strokes]
    return packed, errors, job.rng.bit_generator.state


def _placed(stroke: GridPrompt, positions: Tensor) -> GridPrompt:
    """A stroke of clip positions as one of slices of the volume, in which distances between slices count."""
    cells = stroke.cells.clone()
    cells[:, 0] = positions[cells[:, 0].long()].to(cells.dtype)
    return replace(stroke, cells=cells)


def _first_prompts(truth: Labels, num_classes: int, rng: np.random.Generator) -> list[GridPrompt]:
    """Prompts of some present classes on one slice of a clip (T, h, w)."""
    slice_index = int(rng.integers(len(truth)))
    strokes = []
    for class_id in range(1, num_classes):
        where = np.argwhere(truth[slice_index] == class_id)
        if len(where) == 0 or rng.random() < 0.5:
            continue
        cells = np.insert(where, 0, slice_index, axis=1)
        if rng.random() < 0.25:
            strokes.append(GridPrompt(class_id, True, torch.from_numpy(cells).float(), "box"))
        else:
            region = np.zeros(truth.shape, bool)
            region[tuple(cells.T)] = True
            strokes.append(_stroke(region, class_id, rng))
    return strokes


def _corrections(
    predicted: Labels, truth: Labels, seen: int, num_classes: int, chance: float, rng: np.random.Generator
) -> tuple[list[GridPrompt], npt.NDArray[np.bool_]]:
    """One prompt for the largest error of some classes on the first `seen` slices of a clip (T, h, w), and the errors.

    An error is a 26-connected component of what was missed or wrongly given to a class, in the whole clip.
    """
    strokes, errors = [], np.zeros(truth.shape, bool)
    for class_id in range(1, num_classes):
        if rng.random() >= chance:
            continue
        component = _largest_error(predicted[:seen], truth[:seen], class_id)
        if component is None:
            continue
        missed = truth[:seen][component][0] == class_id
        wrong = ((truth == class_id) == missed) & ((predicted == class_id) != missed)
        box = bounding_box(wrong)
        assert box is not None
        parts, _ = ndimage.label(wrong[box], CONNECTIVITY_26)
        shown = np.zeros(truth.shape, bool)
        shown[:seen] = component
        errors[box] |= np.isin(parts, np.unique(parts[shown[box]]))
        if missed:
            strokes.append(_stroke(component, class_id, rng))
        elif rng.random() < 0.2:  # "not this class"
            strokes.append(_stroke(component, class_id, rng, positive=False))
        else:
            point = _stroke(component, 0, rng, kind=0.0)
            d, y, x = point.cells[0].int().tolist()
            strokes.append(GridPrompt(int(truth[d, y, x]), True, point.cells))
    return strokes, errors


def _largest_error(predicted: Labels, truth: Labels, class_id: int) -> npt.NDArray[np.bool_] | None:
    """Largest 26-connected component of what was missed or wrongly given to a class."""
    best, size = None, 0
    given, true = predicted == class_id, truth == class_id
    for wrong in (true & ~given, given & ~true):
        box = bounding_box(wrong)
        if box is None:
            continue
        parts, _ = ndimage.label(wrong[box], CONNECTIVITY_26)
        sizes = np.bincount(parts.ravel())[1:]
        if sizes.max() > size:
            best, size = np.zeros(wrong.shape, bool), int(sizes.max())
            best[box] = parts == int(sizes.argmax()) + 1
    return best


def _stroke(
    region: npt.NDArray[np.bool_],
    class_id: int,
    rng: np.random.Generator,
    positive: bool = True,
    kind: float | None = None,
) -> GridPrompt:
    """A point in the inner half of a region (most often), or a scribble or mask on its fullest slice."""
    kind = rng.random() if kind is None else kind
    if kind < 0.8:
        box = bounding_box(region)
        assert box is not None
        depth = ndimage.distance_transform_edt(np.pad(region[box], 1))[1:-1, 1:-1, 1:-1]
        inner = np.argwhere(depth >= (depth.max() if rng.random() < 0.5 else 0.5 * depth.max()))
        cells = inner[int(rng.integers(len(inner)))][None] + [axis.start for axis in box]
        return GridPrompt(class_id, positive, torch.from_numpy(cells).float())
    fullest = int(region.sum((1, 2)).argmax())
    cells = np.insert(np.argwhere(region[fullest]), 0, fullest, axis=1)
    if kind < 0.9:  # a scribble: the cells along a random line through the region
        line = cells[:, 1 + int(rng.integers(2))]
        cells = cells[line == int(rng.choice(line))]
        return GridPrompt(class_id, positive, torch.from_numpy(cells).float())
    return GridPrompt(class_id, positive, torch.from_numpy(cells).float(), "region")
