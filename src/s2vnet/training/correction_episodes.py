"""Simulated corrections: an object, present labels with an error, a prompt, and the region that it is meant to change.

Present labels are those of a network (real errors), corrupted ones, or ones without the object. Item by item this is a
function of a random generator, so training can be repeated exactly.

More than 400 lines, because the kinds of errors share the state that is corrected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from s2vnet.inference.correction import connected_to
from s2vnet.inference.correction_maps import (
    Pixels,
    SegmentedVolume,
    Window,
    WindowMaps,
    WindowPrompt,
    window_maps,
)
from s2vnet.model.corrector import WINDOW

Bools = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.uint8]
RADII = (2, 1, 0)
"""In-plane radii in pixels: an error is what is left of wrong pixels after opening by a disc of one of them."""
RADIUS_SHARES = (0.7, 0.15, 0.15)
MIN_PART, MIN_PART_SHARE, SMALLEST_PART = 60, 0.01, 12
"""Smallest error that is prompted on: 60 pixels, less for small objects: 1 % of their pixels, at least 12 pixels."""
ADDED_LABEL = 255
"""Label of an object that has no class."""
_MARGIN = 8


class Part(NamedTuple):
    """Connected error of one class."""

    label: int
    missed: bool
    """Whether pixels of the class are missed; otherwise other pixels are labelled as the class."""
    box: tuple[slice, slice, slice]
    size: int
    radius: int
    """Radius of the disc by which wrong pixels were opened."""


@dataclass(frozen=True, eq=False)
class LabelledVolume:
    """A segmented volume with its present labels and its ground truth."""

    volume: SegmentedVolume
    labels: Tensor
    """(D, H, W) uint8."""
    truth: Tensor
    """(D, H, W) uint8."""
    parts: list[Part] = field(default_factory=list)


@dataclass(frozen=True)
class EpisodeConfig:
    """How corrections are simulated."""

    real: float = 0.55
    """Fraction of episodes with errors of a network."""
    corrupted: float = 0.2
    """Fraction of episodes with corrupted labels; in the rest the object is missing wholly."""
    regions: float = 0.35
    """Fraction of missing objects that are regions of like intensity instead of organs."""
    rounds: tuple[float, ...] = (0.65, 0.25, 0.1)
    """Probability of each number of corrections; the last one is trained on."""
    points: float = 0.65
    """Fraction of prompts that are single points; the others are scribbles and outlines of a whole slice."""
    zoomed: float = 0.25
    """Fraction of windows at zoom 2."""


class Correction(NamedTuple):
    """One training example."""

    maps: WindowMaps
    required: Tensor
    """(D, H, W) in [0, 1]: pixels of the error that the prompt points at."""
    wrong: Tensor
    """(D, H, W) in [0, 1]: pixels of this error and of others of its kind, which may change or not."""
    right: Tensor
    """(D, H, W) in [0, 1]: eligible pixels that must not change."""


class _Statement(NamedTuple):
    label: int
    positive: bool
    pixels: Pixels


def disc(radius: int) -> Bools:
    """In-plane disc (1, 2 * radius + 1, 2 * radius + 1)."""
    steps = np.arange(-radius, radius + 1)
    inside: Bools = np.hypot(steps[:, None], steps)[None] <= radius
    return inside


def opened(mask: Bools, radius: int) -> Bools:
    """In-plane opening of a mask (D, H, W) by a disc."""
    result: Bools = ndimage.binary_opening(mask, disc(radius)) if radius else mask
    return result


def min_part(size: int) -> int:
    """Smallest error that is prompted on, in pixels, of an object of `size` pixels."""
    return int(min(MIN_PART, max(SMALLEST_PART, MIN_PART_SHARE * size)))


def find_parts(labels: Labels, truth: Labels, radius: int) -> list[Part]:
    """6-connected components of each class's missed and false pixels after in-plane opening by a disc."""
    parts = []
    for label in np.union1d(np.unique(labels), np.unique(truth)).tolist():
        if not label:
            continue
        own, true = labels == label, truth == label
        min_size = min_part(int(true.sum()))
        for missed, wrong in ((True, true & ~own), (False, own & ~true)):
            components, count = ndimage.label(opened(wrong, radius))
            sizes = np.bincount(components.ravel(), minlength=count + 1)[1:]
            for (d, y, x), size in zip(ndimage.find_objects(components), sizes.tolist(), strict=True):
                if size >= min_size:
                    parts.append(Part(label, missed, (d, y, x), size, radius))
    return parts


class EpisodeSampler:
    """Draw corrections from labelled volumes."""

    def __init__(self, volumes: Sequence[LabelledVolume], config: EpisodeConfig) -> None:
        self.volumes, self.config = volumes, config
        weights = np.cbrt([case.truth.numel() for case in volumes])  # small volumes have less to learn from
        self.weights = weights / weights.sum()

    def draw(self, rng: np.random.Generator, predict: Predictor) -> Correction:
        """Draw one correction; `predict` answers the corrections before it."""
        while True:
            correction = self._try(rng, predict)
            if correction is not None:
                return correction

    def _try(self, rng: np.random.Generator, predict: Predictor) -> Correction | None:
        config = self.config
        zoom = 2 if rng.random() < config.zoomed else 1
        kind = rng.random()
        case = self.volumes[int(rng.choice(len(self.volumes), p=self.weights))]
        if kind < config.real:
            episode = _real_error(case, zoom, rng)
        elif kind < config.real + config.corrupted:
            episode = _corrupted(case, zoom, rng)
        else:
            episode = _missing(case, zoom, rng, config.regions)
        if episode is None:
            return None
        episode = episode.augmented(rng)
        rounds = 1 + int(rng.choice(len(config.rounds), p=config.rounds))
        correction = None
        for n in range(rounds):
            asked = episode.ask(rng, config.points, zoom)
            if asked is None:
                break
            correction, prompt, window = asked
            if n < rounds - 1:
                episode = episode.answered(prompt, window, correction.maps, predict(correction.maps))
        return correction


class Predictor:
    """Answers of a corrector during training."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.network = network

    @torch.no_grad()
    def __call__(self, maps: WindowMaps) -> Tensor:
        """Logits (D, H, W) on the window."""
        logits: Tensor = self.network(maps.pixels[None], maps.cells[None])[0].float()
        return logits


@dataclass(frozen=True, eq=False)
class _Episode:
    """State of a simulated correction: a small volume, and the object that is corrected."""

    volume: SegmentedVolume
    labels: Tensor
    truth: Tensor
    label: int
    class_id: int | None
    place: tuple[int, int, int]
    """Pixel in or near the error that is corrected first."""
    radius: int = 2
    """Radius of the opening that tells errors to prompt on."""
    statements: tuple[_Statement, ...] = ()

    def augmented(self, rng: np.random.Generator) -> _Episode:
        """Mirrored, transposed, and with other intensities: the corrector knows no anatomy and no scanner."""
        axes = [axis for axis in range(3) if rng.random() < 0.5]
        transpose = bool(rng.random() < 0.5)

        def turn(tensor: Tensor) -> Tensor:
            names = {0: 0, 1: tensor.ndim - 2, 2: tensor.ndim - 1}
            turned = tensor.flip([names[a] for a in axes]) if axes else tensor
            return turned.transpose(-1, -2) if transpose else turned

        image = turn(self.volume.image).float()
        image = image * float(np.exp(rng.uniform(-0.25, 0.25))) + float(rng.uniform(-0.4, 0.4))
        if rng.random() < 0.5:
            noise = torch.from_numpy(rng.standard_normal(image.shape, np.float32))
            image = image + noise * float(rng.uniform(0, 0.3))
        features = turn(self.volume.features)
        if rng.random() < 0.5:  # networks differ in what their features tell apart
            kept = torch.from_numpy(rng.random(features.shape[1]) > 0.3)
            features = features * kept[None, :, None, None]
        volume = SegmentedVolume(image, turn(self.volume.probabilities), features, self.volume.slice_distance)
        place = [
            n - 1 - p if a in axes else p for a, (p, n) in enumerate(zip(self.place, self.labels.shape, strict=True))
        ]
        if transpose:
            place[1], place[2] = place[2], place[1]
        labels, truth = turn(self.labels).contiguous(), turn(self.truth).contiguous()
        return replace(self, volume=volume, labels=labels, truth=truth, place=(place[0], place[1], place[2]))

    def ask(self, rng: np.random.Generator, points: float, zoom: int) -> tuple[Correction, WindowPrompt, Window] | None:
        """Prompt on an error of the object: that at the first place, later the largest one."""
        labels, truth = self.labels.numpy(), self.truth.numpy()
        own, true = labels == self.label, truth == self.label
        choices = []
        for missed, wrong in ((True, true & ~own), (False, own & ~true)):
            components, count = ndimage.label(opened(wrong, self.radius))
            if not count:
                continue
            sizes = np.bincount(components.ravel())[1:]
            chosen = int(components[self.place]) if not self.statements else 0
            size = np.inf if chosen else float(sizes.max())
            choices.append((size, missed, wrong, components == (chosen or int(sizes.argmax()) + 1)))
        if not choices or max(c[0] for c in choices) < min_part(int(true.sum())) / 2:
            return None
        _, missed, wrong, part = max(choices, key=lambda choice: choice[0])
        pixels = _prompt_pixels(part, rng, points)
        label, class_id, positive = self.label, self.class_id, missed
        d, y, x = pixels[0]
        if not missed and truth[d, y, x] != ADDED_LABEL and rng.random() < 0.5:
            label, class_id, positive = int(truth[d, y, x]), int(truth[d, y, x]), True
            part = part & (truth == label)
            pixels = pixels[part[tuple(pixels.T)]]
            wrong = (labels != label) & (truth == label)
        same = [s.pixels for s in self.statements if s.label == label and s.positive == positive]
        other = [
            s.pixels
            for s in self.statements
            if (s.label == label and s.positive != positive) or (s.label != label and s.positive and positive)
        ]
        prompt = WindowPrompt(pixels, positive, class_id, label, _concatenate(same), _concatenate(other))
        window = self._window(pixels, zoom, rng)
        maps = window_maps(self.volume, self.labels, prompt, window)
        return self._correction(maps, window, wrong, part), prompt, window

    def _window(self, pixels: Pixels, zoom: int, rng: np.random.Generator) -> Window:
        """Window around a prompt; half of those around a whole slice begin or end near it."""
        centre = pixels.mean(0) + rng.normal(size=3) * np.array([1.0, 3.0 * zoom, 3.0 * zoom])
        if len(pixels) > 1 and rng.random() < 0.5:
            centre[0] = pixels[0, 0] + (WINDOW[0] / 2 - 2) * rng.choice([-1, 1])
        return Window.around(centre, zoom)

    def _correction(self, maps: WindowMaps, window: Window, wrong: Bools, part: Bools) -> Correction:
        required = wrong & ndimage.binary_dilation(part, disc(2))
        eligible = window.pool(maps.eligible)

        def pooled(mask: Bools) -> Tensor:
            return window.pool(window.crop(torch.from_numpy(mask)))

        asked, all_wrong = pooled(required), pooled(wrong)
        return Correction(maps, asked, all_wrong, (eligible - all_wrong).clamp(0, 1))

    def answered(self, prompt: WindowPrompt, window: Window, maps: WindowMaps, logits: Tensor) -> _Episode:
        """State after the answer to a prompt, of which only what is connected to the prompt is kept."""
        change = ((window.enlarge(logits) > 0) & maps.eligible).numpy()
        labels = self.labels.clone()
        inside, region = window.overlap(labels.shape)
        changed = torch.from_numpy(connected_to(change, prompt.pixels - np.array(window.start)))[inside]
        if prompt.positive:
            labels[region][changed] = prompt.label
        else:
            labels[region][changed] = runner_up(self.volume, prompt.class_id)[region][changed]
        labels[tuple(prompt.pixels.T)] = prompt.label if prompt.positive else labels[tuple(prompt.pixels.T)]
        statement = _Statement(prompt.label, prompt.positive, prompt.pixels)
        return replace(self, labels=labels, statements=(*self.statements, statement))


def runner_up(volume: SegmentedVolume, class_id: int | None) -> Tensor:
    """Most probable class (D, H, W) of each pixel but one."""
    scores = volume.probabilities.float().clone()
    if class_id is not None:
        scores[:, class_id] = -1
    best = scores.argmax(1, keepdim=True).float()
    return F.interpolate(best, size=volume.image.shape[-2:], mode="nearest")[:, 0].byte()


def _concatenate(pixels: Sequence[Pixels]) -> Pixels:
    return np.concatenate(pixels) if pixels else np.empty((0, 3), np.intp)


def _prompt_pixels(part: Bools, rng: np.random.Generator, points: float) -> Pixels:
    """Pixels (N, 3) of a prompt on the largest slice of an error, or on any of its slices."""
    areas = part.sum((1, 2))
    kind = rng.random()
    d = int(areas.argmax())
    if rng.random() < 0.3 or kind >= points:
        d = int(rng.choice(np.flatnonzero(areas)))
    depth = ndimage.distance_transform_edt(np.pad(part[d], 1))[1:-1, 1:-1]
    inner = np.argwhere(depth >= (depth.max() if rng.random() < 0.6 else 0.5 * depth.max()))
    y, x = inner[int(rng.integers(len(inner)))]
    if kind < points:
        plane = np.array([[y, x]])
    elif kind < points + (1 - points) / 3:  # a stroke between two points
        y1, x1 = inner[int(rng.integers(len(inner)))]
        count = 1 + int(np.hypot(y1 - y, x1 - x))
        line = np.rint(np.linspace([y, x], [y1, x1], count)).astype(int)
        plane = line[part[d][tuple(line.T)]]
    else:  # the whole slice, or most of it
        plane = np.argwhere(depth > rng.uniform(0, 0.4) * depth.max())
    return np.insert(plane, 0, d, axis=1).astype(np.intp)


def _cut(case: LabelledVolume, centre: Sequence[int], zoom: int, rng: np.random.Generator) -> tuple[slice, ...]:
    """Block of a volume that holds any window for a prompt near a place."""
    extent = WINDOW[0] + _MARGIN, WINDOW[1] * zoom + 4 * _MARGIN, WINDOW[2] * zoom + 4 * _MARGIN
    block = []
    for axis, (c, n, size) in enumerate(zip(centre, extent, case.truth.shape, strict=True)):
        low = max(0, int(c) - n // 2)
        low -= low % 4 if axis else 0
        block.append(slice(low, min(size, low + n)))
    return tuple(block)


def _episode(
    case: LabelledVolume, block: tuple[slice, ...], place: Sequence[int], label: int, class_id: int | None
) -> _Episode:
    volume, stride = case.volume, case.volume.image.shape[-1] // case.volume.probabilities.shape[-1]
    d, y, x = block
    rows, columns = (slice(s.start // stride, -(-s.stop // stride)) for s in (y, x))
    small = SegmentedVolume(
        volume.image[d, y, x],
        volume.probabilities[d, :, rows, columns],
        volume.features[d, :, rows, columns],
        volume.slice_distance,
    )
    inside = [int(p) - s.start for p, s in zip(place, block, strict=True)]
    labels, truth = case.labels[d, y, x], case.truth[d, y, x]
    return _Episode(small, labels, truth, label, class_id, (inside[0], inside[1], inside[2]))


def _real_error(case: LabelledVolume, zoom: int, rng: np.random.Generator) -> _Episode | None:
    """An error of the network, larger ones and rarer classes more often."""
    if not case.parts:
        return None
    labels = sorted({part.label for part in case.parts})
    label = labels[int(rng.integers(len(labels)))]
    parts = [part for part in case.parts if part.label == label]
    wide = [part for part in parts if part.radius == RADII[0]]
    parts = wide if wide and rng.random() < RADIUS_SHARES[0] else parts
    weights = np.sqrt([part.size for part in parts])
    part = parts[int(rng.choice(len(parts), p=weights / weights.sum()))]
    own, true = case.labels[part.box].numpy() == label, case.truth[part.box].numpy() == label
    wrong = opened((true & ~own) if part.missed else (own & ~true), part.radius)
    voxels = np.argwhere(wrong)
    if not len(voxels):
        return None
    place = voxels[int(rng.integers(len(voxels)))] + [s.start for s in part.box]
    return replace(_episode(case, _cut(case, place, zoom, rng), place, label, label), radius=part.radius)


def _missing(case: LabelledVolume, zoom: int, rng: np.random.Generator, regions: float) -> _Episode | None:
    """An object that the labels lack: an organ whose class is removed, or a region of like intensity."""
    if rng.random() < regions:
        return _missing_region(case, zoom, rng)
    found = _organ_place(case, rng)
    if found is None:
        return None
    label, place = found
    episode = _episode(case, _cut(case, place, zoom, rng), place, label, None)
    probabilities = episode.volume.probabilities.float().clone()
    probabilities[:, label] = 0
    probabilities = probabilities / probabilities.sum(1, keepdim=True).clamp_min(1e-6)
    volume = replace(episode.volume, probabilities=probabilities)
    labels = torch.where(episode.labels == label, runner_up(episode.volume, label), episode.labels)
    if rng.random() < 0.5:  # other objects that the labels lack, too
        labels = torch.where(torch.from_numpy(np.isin(labels.numpy(), rng.integers(1, 32, 8))), 0, labels)
    return replace(episode, volume=volume, labels=labels)


def _missing_region(case: LabelledVolume, zoom: int, rng: np.random.Generator) -> _Episode | None:
    shape = case.truth.shape
    place = [int(rng.integers(n // 8, max(n // 8 + 1, n - n // 8))) for n in shape]
    episode = _episode(case, _cut(case, place, zoom, rng), place, ADDED_LABEL, None)
    image = ndimage.gaussian_filter(episode.volume.image.float().numpy(), (0.4, 1.0, 1.0))
    at = episode.place
    if image[at] < image.min() + 0.3:
        return None
    alike = np.abs(image - image[at]) < rng.uniform(0.2, 0.7)
    region = alike & _blob(image.shape, at, rng.uniform(8, 40) * zoom, episode.volume.slice_distance, rng)
    if rng.random() < 0.7:
        region = opened(region, 2)
    components, _ = ndimage.label(region)
    if not components[at]:
        return None
    region = components == components[at]
    if rng.random() < 0.5:
        region = ndimage.binary_closing(region, disc(2))
    if not 2 * MIN_PART < region.sum() < 0.3 * region.size:
        return None
    truth = torch.where(torch.from_numpy(region), ADDED_LABEL, episode.truth)
    return replace(episode, truth=truth)


def _corrupted(case: LabelledVolume, zoom: int, rng: np.random.Generator) -> _Episode | None:
    """Truth in which part of an organ is missing or given to another, or which covers what is beside it."""
    found = _organ_place(case, rng)
    if found is None:
        return None
    label, place = found
    episode = _episode(case, _cut(case, place, zoom, rng), place, label, label)
    truth = episode.truth.numpy()
    mask, at = truth == label, episode.place
    blob = _blob(mask.shape, at, rng.uniform(5, 24) * zoom, episode.volume.slice_distance, rng)
    kind = rng.random()
    labels = truth.copy()
    if kind < 0.45:  # a piece is missing
        piece = blob & mask
        if rng.random() < 0.4:
            piece = mask.copy()
            piece[: at[0]] = rng.random() < 0.5
            piece[at[0] :] = not piece[: at[0]].any() if at[0] else True
            piece &= mask
        beside = np.unique(truth[ndimage.binary_dilation(piece, iterations=4) & ~mask])
        labels[piece] = int(rng.choice(beside)) if len(beside) else 0
    else:  # it covers more than it should
        image = ndimage.gaussian_filter(episode.volume.image.float().numpy(), (0.4, 0.8, 0.8))
        outside = np.argwhere(ndimage.binary_dilation(mask & blob, iterations=5) & ~mask)
        if not len(outside):
            return None
        q = tuple(outside[int(rng.integers(len(outside)))])
        piece = _blob(mask.shape, q, rng.uniform(4, 16) * zoom, episode.volume.slice_distance, rng) & ~mask
        if rng.random() < 0.75:
            piece &= np.abs(image - image[q]) < rng.uniform(0.2, 0.6)
        if truth[q] and rng.random() < 0.7:
            piece &= truth == truth[q]
        labels[piece] = label
        at = q
    if piece.sum() < MIN_PART:
        return None
    stride = truth.shape[-1] // episode.volume.probabilities.shape[-1] or 1
    changed = torch.from_numpy(labels[:, ::stride, ::stride].astype(np.int64))
    one_hot = F.one_hot(changed, episode.volume.probabilities.shape[1]).permute(0, 3, 1, 2).float()
    share = float(rng.uniform(0.3, 0.95))
    size = episode.volume.probabilities.shape[-2:]
    mixed = episode.volume.probabilities.float() * (1 - share) + share * one_hot[..., : size[0], : size[1]]
    volume = replace(episode.volume, probabilities=F.avg_pool2d(mixed, 3, 1, 1))
    inside = np.argwhere(opened(piece, 2))
    if not len(inside):
        return None
    d, y, x = inside[int(rng.integers(len(inside)))].tolist()
    return replace(episode, volume=volume, labels=torch.from_numpy(labels), place=(d, y, x))


def _organ_place(case: LabelledVolume, rng: np.random.Generator) -> tuple[int, tuple[int, ...]] | None:
    """A class of the truth and one of its pixels."""
    labels = [label for label in np.unique(case.truth[::2, ::4, ::4].numpy()).tolist() if label]
    if not labels:
        return None
    label = labels[int(rng.integers(len(labels)))]
    voxels = np.flatnonzero((case.truth == label).numpy())
    place = np.unravel_index(voxels[int(rng.integers(len(voxels)))], tuple(case.truth.shape))
    return label, tuple(int(v) for v in place)


def _blob(
    shape: Sequence[int], centre: Sequence[int], radius: float, slice_distance: float, rng: np.random.Generator
) -> Bools:
    """A random ellipsoid with an uneven surface; its radius is in pixels."""
    d, y, x = np.ogrid[tuple(slice(0, n) for n in shape)]
    stretch = np.exp(rng.uniform(-0.4, 0.4, 3)) * radius
    offsets = ((d - centre[0]) * slice_distance, y - centre[1], x - centre[2])
    away = np.sqrt(sum((a / s) ** 2 for a, s in zip(offsets, stretch, strict=True)))
    coarse = torch.from_numpy(rng.standard_normal((1, 1, *(max(2, n // 10) for n in shape)), np.float32))
    uneven = F.interpolate(coarse, tuple(shape), mode="trilinear", align_corners=True)[0, 0].numpy()
    inside: Bools = away + 0.3 * uneven < 1
    return inside
