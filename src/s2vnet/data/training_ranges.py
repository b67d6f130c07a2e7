"""Ranges of spacing, size and intensity over the training cases, and warnings about volumes outside them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from s2vnet.io.geometry import Geometry, Volume
from s2vnet.io.lazy_image import LazyImage, as_lazy_image

Triple = tuple[float, float, float]
"""Values along R, A, S."""
Range = tuple[float, float]
"""Minimum and maximum."""

SLICE_FACTOR = 1.5
"""Slices may be this many times thicker than in training; thinner ones are averaged (:func:`slab_size`)."""
PIXEL_FACTOR = 2.0
"""Pixels may be this many times coarser than in training; finer ones are resampled without loss."""
SIZE_FACTOR = 2.0
"""The field of view may be this many times smaller or larger than in training."""
TISSUE_MARGIN = 40.0
"""HU by which the median tissue may lie outside the training range: as much as contrast phases differ."""
BRIGHT_PERCENTILE = 95.0
"""Percentile of the values inside the window that shows whether there is contrast agent in vessels and organs."""
BRIGHT_MARGIN = 20.0
"""HU by which that percentile may lie outside the training range."""
MAX_SAMPLES = 1_000_000
"""Approximate number of voxels of a volume that percentiles are computed from."""
MIN_TISSUE_FRACTION = 0.02
"""Fraction of voxels inside the window below which a volume is unlikely to be a CT in HU."""


class TrainingRanges(BaseModel):
    """Minimum and maximum over the training cases."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spacing: tuple[Triple, Triple]
    """Voxel sizes along R, A, S in mm."""
    size: tuple[Triple, Triple]
    """Field of view along R, A, S in mm."""
    tissue: tuple[Range, ...]
    """Per channel, of the median of a case's values inside the foreground's window (percentiles 0.5 to 99.5)."""
    bright: tuple[Range, ...] = ()
    """Likewise of the 95th percentile; empty in plans of earlier versions."""


def window_percentile(values: npt.NDArray[np.float32], low: float, high: float, percentile: float = 50.0) -> float:
    """Percentile of the values strictly inside a window, without air and clipped values; NaN where there are none."""
    inside = values[(values > low) & (values < high)]
    return float(np.percentile(inside, percentile)) if inside.size else float("nan")


def slab_size(seen: TrainingRanges, axis: int, distance: float) -> int:
    """Number of adjacent slices, `distance` mm apart along `axis` (R, A, S), closest to training's thinnest slice."""
    return max(1, round(seen.spacing[0][axis] / distance))


def range_warnings(
    seen: TrainingRanges, axis: int, windows: Sequence[Range | None], image: Volume | LazyImage
) -> tuple[str, ...]:
    """One-line warnings about properties of a volume outside the ranges of the training cases.

    Args:
        seen: ranges of the training cases.
        axis: canonical axis (R, A, S) that slices cut across.
        windows: window of each channel in HU, or None where intensities have no common scale.
        image: the volume.
    """
    geometry = image.geometry.canonical()[0]
    warnings = _grid_warnings(seen, axis, geometry)
    brights = seen.bright or ((-np.inf, np.inf),) * len(seen.tissue)
    for channel, window, (low, high), (dark, bright) in zip(
        as_lazy_image(image).channels, windows, seen.tissue, brights, strict=True
    ):
        if window is None:
            continue
        sample = channel.sample(MAX_SAMPLES)
        inside = np.count_nonzero((sample > window[0]) & (sample < window[1])) / sample.size
        typical = window_percentile(sample, *window)
        top = window_percentile(sample, *window, BRIGHT_PERCENTILE)
        if inside < MIN_TISSUE_FRACTION:
            warnings.append(
                f"{inside:.1%} of the voxels lie within {window[0]:g} to {window[1]:g} HU; is this a CT in HU, "
                "with its slope and intercept?"
            )
        elif not low - TISSUE_MARGIN <= typical <= high + TISSUE_MARGIN:
            warnings.append(f"typical tissue has {typical:.0f} HU, in training {low:.0f} to {high:.0f}")
        elif not dark - BRIGHT_MARGIN <= top <= bright + BRIGHT_MARGIN:
            warnings.append(
                f"5% of the tissue have more than {top:.0f} HU, in training {dark:.0f} to {bright:.0f}; "
                "is this another contrast phase?"
            )
    return tuple(warnings)


def _grid_warnings(seen: TrainingRanges, axis: int, geometry: Geometry) -> list[str]:
    warnings = []
    thin, thick = (bound[axis] for bound in seen.spacing)
    if geometry.spacing[axis] > thick * SLICE_FACTOR:
        warnings.append(f"slices are {geometry.spacing[axis]:.3g} mm apart, in training {_range(thin, thick)} mm")
    coarse = [a for a in range(3) if a != axis and geometry.spacing[a] > PIXEL_FACTOR * seen.spacing[1][a]]
    if coarse:
        worst = max(coarse, key=lambda a: geometry.spacing[a] / seen.spacing[1][a])
        trained = _range(seen.spacing[0][worst], seen.spacing[1][worst])
        warnings.append(f"pixels are {geometry.spacing[worst]:.3g} mm large, in training {trained} mm")
    for a, name in enumerate(("right to left", "back to front", "foot to head")):
        size = geometry.shape[a] * geometry.spacing[a]
        least, most = (bound[a] for bound in seen.size)
        if not least / SIZE_FACTOR <= size <= most * SIZE_FACTOR:
            warnings.append(f"the volume is {size:.0f} mm long from {name}, in training {_range(least, most, 0)} mm")
    return warnings


def _range(low: float, high: float, digits: int = 2) -> str:
    a, b = f"{low:.{digits}f}", f"{high:.{digits}f}"
    return a if a == b else f"{a} to {b}"
