"""Simulated users for training: prompts on errors of the network's own prediction, or on classes of the truth."""

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
from s2vnet.data.label_definitions import IGNORED
from s2vnet.model.prompt_encoder import GridPrompt, PromptRasterizer
from s2vnet.utils.components import CONNECTIVITY_26, bounding_box, largest_component

Labels = npt.NDArray[np.integer]
Predict = Callable[[Tensor, list[int]], Tensor]
"""Maps prompt maps (n, T, K, 4, h, w) of n clips, and their indices, to predicted classes (n, T, h, w)."""


def simulate_prompts(
    predict: Predict,
    labels: Tensor,
    steps: Tensor,
    network: ModelConfig,
    config: TrainConfig,
    rngs: list[np.random.Generator],
    executor: Executor | None = None,
) -> tuple[Tensor, Tensor]:
    """Simulate users who prompt and correct clips for a random number of rounds.

    Some users prompt before they see a prediction; afterwards all correct the largest error of each class, as in the
    evaluation protocol (CVPR 2025 interactive challenge). Some see only the first slice of their clip, so that prompts
    are also trained to propagate.

    Args:
        predict: the network without gradient.
        labels: (B, T, h, w) ground truth on the mask grid, :data:`IGNORED` where it is unknown.
        steps: (B,) signed slice step of each clip.
        network: configuration with the number of classes and the reach of prompts.
        config: settings of the simulated users.
        rngs: one generator per clip.
        executor: worker processes that find the errors; the result does not depend on it.

    Returns:
        Prompt maps (B, T, K, 4, h, w), and a mask (B, T, h, w) that is 1 in the errors that were prompted on, on all
        slices of the clip.
    """
    _, length, height, width = labels.shape
    num_classes = network.num_classes
    truth = _to_small_integers(labels, num_classes)
    visible = [1 if rng.random() < config.first_slice_fraction else length for rng in rngs]
    first_prompts: list[list[GridPrompt]] = [
        _first_prompts(t[:count], num_classes, rng) if rng.random() < 0.3 else []
        for t, count, rng in zip(truth, visible, rngs, strict=True)
    ]
    most = config.max_correction_rounds
    rounds = [int(rng.integers(0 if p else 1, most + 1)) for p, rng in zip(first_prompts, rngs, strict=True)]
    positions = torch.arange(length) * steps.abs().cpu()[:, None]
    rasterizers = [
        PromptRasterizer(p.float(), num_classes, (height, width), network.prompt_reach, labels.device)
        for p in positions
    ]

    def add(clip: int, prompts: list[GridPrompt]) -> None:
        for prompt in prompts:
            rasterizers[clip].add(_at_positions(prompt, positions[clip]))

    for b, prompts in enumerate(first_prompts):
        add(b, prompts)
    errors = np.zeros(truth.shape, np.float32)
    for number in range(max(rounds)):
        clips = [b for b, count in enumerate(rounds) if number < count]
        maps = torch.stack([rasterizers[b].maps() for b in clips])
        predicted = _to_small_integers(predict(maps, clips), num_classes)
        jobs = [
            _CorrectionJob(p, truth[b], visible[b], num_classes, config.correction_fraction, rngs[b])
            for b, p in zip(clips, predicted, strict=True)
        ]
        results = map(_run_job, jobs) if executor is None else executor.map(_run_job, jobs)
        for b, (packed, corrected, generator_state) in zip(clips, results, strict=True):
            rngs[b].bit_generator.state = generator_state
            add(b, [GridPrompt(k, positive, torch.from_numpy(cells), kind) for k, positive, cells, kind in packed])
            errors[b][corrected] = 1
    return torch.stack([r.maps() for r in rasterizers]), torch.from_numpy(errors).to(labels.device)


def _to_small_integers(labels: Tensor, num_classes: int) -> Labels:
    """Convert labels to small integers, which are faster to send between devices and processes."""
    return labels.to(torch.uint8 if num_classes <= 256 else torch.int16).cpu().numpy()


class _CorrectionJob(NamedTuple):
    """Arguments of :func:`_corrections`."""

    predicted: Labels
    truth: Labels
    visible: int
    num_classes: int
    chance: float
    rng: np.random.Generator


_PackedPrompt = tuple[int, bool, npt.NDArray[np.float32], Literal["point", "region", "box"]]
"""A prompt without tensors, each of which would need a file descriptor to be sent between processes."""


def _run_job(job: _CorrectionJob) -> tuple[list[_PackedPrompt], npt.NDArray[np.bool_], Mapping[str, Any]]:
    """Run :func:`_corrections`; return packed prompts, errors, and the state of the generator afterwards."""
    prompts, errors = _corrections(*job)
    packed = [(p.class_id, p.positive, p.cells.numpy(), p.kind) for p in prompts]
    return packed, errors, job.rng.bit_generator.state


def _at_positions(prompt: GridPrompt, positions: Tensor) -> GridPrompt:
    """Replace slice indices in a clip by positions (T,) in the volume."""
    cells = prompt.cells.clone()
    cells[:, 0] = positions[cells[:, 0].long()].to(cells.dtype)
    return replace(prompt, cells=cells)


def _first_prompts(truth: Labels, num_classes: int, rng: np.random.Generator) -> list[GridPrompt]:
    """Prompts for some of the classes on a random slice of a clip (T, h, w)."""
    slice_index = int(rng.integers(len(truth)))
    prompts = []
    for class_id in range(1, num_classes):
        pixels = np.argwhere(truth[slice_index] == class_id)
        if len(pixels) == 0 or rng.random() < 0.5:
            continue
        cells = np.insert(pixels, 0, slice_index, axis=1)
        if rng.random() < 0.25:
            prompts.append(GridPrompt(class_id, True, torch.from_numpy(cells).float(), "box"))
        else:
            region = np.zeros(truth.shape, bool)
            region[tuple(cells.T)] = True
            prompts.append(_random_prompt(region, class_id, rng))
    return prompts


def _corrections(
    predicted: Labels, truth: Labels, visible: int, num_classes: int, chance: float, rng: np.random.Generator
) -> tuple[list[GridPrompt], npt.NDArray[np.bool_]]:
    """Prompt on the largest error of random classes on the first `visible` slices of a clip (T, h, w).

    Also return the mask (T, h, w) of these errors: 26-connected components of the false negatives or false positives of
    a class in the whole clip. Pixels to ignore are no errors.
    """
    truth = np.where(truth == IGNORED, predicted, truth) if (truth == IGNORED).any() else truth
    prompts, errors = [], np.zeros(truth.shape, bool)
    for class_id in range(1, num_classes):
        if rng.random() >= chance:
            continue
        component = _largest_error(predicted[:visible], truth[:visible], class_id)
        if component is None:
            continue
        missed = truth[:visible][component][0] == class_id
        wrong = ((truth == class_id) == missed) & ((predicted == class_id) != missed)
        box = bounding_box(wrong)
        assert box is not None
        parts, _ = ndimage.label(wrong[box], CONNECTIVITY_26)
        in_clip = np.zeros(truth.shape, bool)
        in_clip[:visible] = component
        errors[box] |= np.isin(parts, np.unique(parts[in_clip[box]]))
        if missed:
            prompts.append(_random_prompt(component, class_id, rng))
        elif rng.random() < 0.2:  # "not this class"
            prompts.append(_random_prompt(component, class_id, rng, positive=False))
        else:
            point = _random_prompt(component, 0, rng, draw=0.0)
            d, y, x = point.cells[0].int().tolist()
            prompts.append(GridPrompt(int(truth[d, y, x]), True, point.cells))
    return prompts, errors


def _largest_error(predicted: Labels, truth: Labels, class_id: int) -> npt.NDArray[np.bool_] | None:
    """Largest 26-connected component of the false negatives or of the false positives of a class."""
    is_predicted, is_true = predicted == class_id, truth == class_id
    largest = [largest_component(wrong) for wrong in (is_true & ~is_predicted, is_predicted & ~is_true)]
    components = [component for component in largest if component is not None]
    if not components:
        return None
    component, box = max(components, key=lambda pair: np.count_nonzero(pair[0]))
    mask = np.zeros(truth.shape, bool)
    mask[box] = component
    return mask


def _random_prompt(
    region: npt.NDArray[np.bool_],
    class_id: int,
    rng: np.random.Generator,
    positive: bool = True,
    draw: float | None = None,
) -> GridPrompt:
    """Point in the inner half of a region, or scribble or mask on its largest slice, chosen by `draw` (0..1)."""
    draw = rng.random() if draw is None else draw
    if draw < 0.8:
        box = bounding_box(region)
        assert box is not None
        depth = ndimage.distance_transform_edt(np.pad(region[box], 1))[1:-1, 1:-1, 1:-1]
        inner = np.argwhere(depth >= (depth.max() if rng.random() < 0.5 else 0.5 * depth.max()))
        cells = inner[int(rng.integers(len(inner)))][None] + [axis.start for axis in box]
        return GridPrompt(class_id, positive, torch.from_numpy(cells).float())
    largest = int(region.sum((1, 2)).argmax())
    cells = np.insert(np.argwhere(region[largest]), 0, largest, axis=1)
    if draw < 0.9:  # a scribble: the cells along a random line through the region
        line = cells[:, 1 + int(rng.integers(2))]
        cells = cells[line == int(rng.choice(line))]
        return GridPrompt(class_id, positive, torch.from_numpy(cells).float())
    return GridPrompt(class_id, positive, torch.from_numpy(cells).float(), "region")
