"""Fingerprint of a dataset, from which its plan is made: spacings, shapes, intensities and class sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from s2vnet.data.dataset import Dataset
from s2vnet.data.label_definitions import IGNORED
from s2vnet.data.training_ranges import BRIGHT_PERCENTILE, TrainingRanges, Triple, window_percentile
from s2vnet.errors import InputError
from s2vnet.io.geometry import LabelMap, Volume
from s2vnet.utils.file_names import printable

SAMPLES_PER_CASE = 10_000
"""Foreground voxels per case and channel that intensity statistics are computed from (nnU-Net's number)."""


class IntensityStatistics(BaseModel):
    """Statistics of one channel over foreground voxels of all cases, in the image's units."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float
    std: float
    percentile_00_5: float
    percentile_99_5: float


class ClassExtent(BaseModel):
    """Size of a class as medians over the cases that contain it, along R, A, S."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cases: int
    """Number of cases that contain the class."""
    voxels: Triple
    """Bounding box in voxels."""
    mm: Triple
    """Bounding box in mm."""
    diameter_mm: Triple
    """Diameter of the circle with the class's area on a slice across R, A, S (sagittal, coronal, axial)."""


class Fingerprint(BaseModel):
    """Properties of a dataset that a plan depends on; spacing and shape along R, A, S."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    cases: int
    channels: tuple[str, ...]
    labels: dict[str, int]
    regions: dict[str, tuple[int, ...]] = {}
    """Label values by region (:attr:`s2vnet.data.dataset.Dataset.regions`)."""
    spacing: Triple
    """Median voxel size in mm."""
    shape: Triple
    """Median shape in voxels."""
    intensities: tuple[IntensityStatistics, ...]
    """Per channel."""
    extents: dict[str, ClassExtent]
    """By class name, without background and classes that no case contains."""
    nonzero_fraction: float
    """Median fraction of the volume inside the bounding box of its nonzero voxels."""
    empty_cases: tuple[str, ...]
    """Cases without any class, which train background only."""
    seen: TrainingRanges | None = None
    """Ranges over the cases; None in fingerprints of earlier versions."""


def extract_fingerprint(
    dataset: Dataset,
    *,
    fill_nonfinite: float | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Fingerprint:
    """Compute the fingerprint, for which each training case is read once.

    Args:
        dataset: dataset with labelled training cases.
        fill_nonfinite: value that replaces NaN and infinite voxels; None refuses them.
        progress: called with the numbers of read and of all cases.

    Raises:
        InputError: as :meth:`Dataset.read`, or no case contains any class.
    """
    spacings, shapes, boxes, empty = [], [], [], []
    foreground_samples: list[list[npt.NDArray[np.float32]]] = [[] for _ in dataset.channels]
    uniform_samples: list[list[npt.NDArray[np.float32]]] = [[] for _ in dataset.channels]
    extents: dict[int, list[npt.NDArray[np.float64]]] = {v: [] for v in dataset.labels.values() if v}
    rng = np.random.default_rng(0)
    for number, case in enumerate(dataset.training):
        volume, labels = dataset.read(case, fill_nonfinite=fill_nonfinite)
        if labels is None:
            raise InputError(f"case {case.name} has no labels")
        image, truth, spacing = _canonical(volume, labels)
        spacings.append(spacing)
        shapes.append(truth.shape)
        boxes.append(_nonzero_fraction(image))
        foreground = np.flatnonzero((truth > 0) & (truth != IGNORED))
        if len(foreground) == 0:
            empty.append(case.name)
        else:
            indices = rng.choice(foreground, SAMPLES_PER_CASE)
            for channel, samples in zip(image, foreground_samples, strict=True):
                samples.append(channel.reshape(-1)[indices])
        indices = np.random.default_rng(number).choice(truth.size, SAMPLES_PER_CASE)
        for channel, samples in zip(image, uniform_samples, strict=True):
            samples.append(channel.reshape(-1)[indices])
        for class_id in extents:
            extents[class_id] += _extent(truth == class_id, spacing)
        progress(number + 1, len(dataset.training))
    if len(empty) == len(dataset.training):
        raise InputError(f"{dataset.root}: no case contains any class; are the label files empty?")
    intensities = tuple(_intensity_statistics(np.concatenate(samples)) for samples in foreground_samples)
    sizes: npt.NDArray[np.float64] = np.array(shapes) * np.array(spacings)
    return Fingerprint(
        dataset=printable(dataset.name),
        cases=len(dataset.training),
        channels=dataset.channels,
        labels=dict(dataset.labels),
        regions=dict(dataset.regions),
        spacing=_triple(np.median(spacings, 0)),
        shape=_triple(np.median(shapes, 0)),
        intensities=intensities,
        extents={n: _class_extent(extents[v]) for n, v in dataset.labels.items() if v and extents[v]},
        nonzero_fraction=round(float(np.median(boxes)), 4),
        empty_cases=tuple(empty),
        seen=TrainingRanges(
            spacing=(_triple(np.min(spacings, 0)), _triple(np.max(spacings, 0))),
            size=(_triple(sizes.min(0)), _triple(sizes.max(0))),
            tissue=_tissue_ranges(uniform_samples, intensities, 50),
            bright=_tissue_ranges(uniform_samples, intensities, BRIGHT_PERCENTILE),
        ),
    )


def _canonical(
    volume: Volume, labels: LabelMap
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.integer], npt.NDArray[np.float64]]:
    """Image (C, R, A, S), labels (R, A, S) and spacing (3,) along the closest RAS axes."""
    geometry, orientation = volume.geometry.canonical()
    image = np.ascontiguousarray(orientation.apply(volume.data))
    return image, np.ascontiguousarray(orientation.apply(labels.data)), np.array(geometry.spacing)


def _nonzero_fraction(image: npt.NDArray[np.float32]) -> float:
    fraction = 1.0
    nonzero = (image != 0).any(0)
    for axis in range(3):
        indices = np.flatnonzero(nonzero.any(tuple(a for a in range(3) if a != axis)))
        fraction *= (indices[-1] - indices[0] + 1) / nonzero.shape[axis] if len(indices) else 1
    return fraction


def _extent(mask: npt.NDArray[np.bool_], spacing: npt.NDArray[np.float64]) -> list[npt.NDArray[np.float64]]:
    """Bounding box in voxels, in mm, and diameter in mm, as one array (3, 3); no array for an empty mask."""
    voxels = np.argwhere(mask)
    if len(voxels) == 0:
        return []
    box = (np.ptp(voxels, axis=0) + 1).astype(np.float64)
    diameters = []
    for axis in range(3):
        areas = np.bincount(voxels[:, axis])
        pixel = np.prod(np.delete(spacing, axis))
        diameters.append(2 * np.sqrt(np.median(areas[areas > 0]) * pixel / np.pi))
    return [np.stack([box, box * spacing, np.array(diameters)])]


def _class_extent(extents: list[npt.NDArray[np.float64]]) -> ClassExtent:
    voxels, mm, diameter = np.median(extents, 0)
    return ClassExtent(cases=len(extents), voxels=_triple(voxels), mm=_triple(mm), diameter_mm=_triple(diameter))


def _intensity_statistics(values: npt.NDArray[np.float32]) -> IntensityStatistics:
    low, high = np.percentile(values, [0.5, 99.5])
    return IntensityStatistics(
        mean=float(values.mean(dtype=np.float64)),
        std=float(values.std(dtype=np.float64)),
        percentile_00_5=float(low),
        percentile_99_5=float(high),
    )


def _tissue_ranges(
    samples: Sequence[Sequence[npt.NDArray[np.float32]]], windows: Sequence[IntensityStatistics], percentile: float
) -> tuple[tuple[float, float], ...]:
    """Range over the cases of a percentile inside the window, per channel."""
    ranges = []
    for cases, window in zip(samples, windows, strict=True):
        low, high = window.percentile_00_5, window.percentile_99_5
        percentiles = [window_percentile(values, low, high, percentile) for values in cases]
        known = [value for value in percentiles if not np.isnan(value)] or [window.mean]
        ranges.append((round(min(known), 4), round(max(known), 4)))
    return tuple(ranges)


def _triple(values: npt.ArrayLike) -> Triple:
    r, a, s = (round(float(v), 4) for v in np.asarray(values))
    return r, a, s
