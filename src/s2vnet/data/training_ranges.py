"""What a network was trained on, and in what a volume differs from it: nothing says so later but a bad result."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from s2vnet.io.geometry import Geometry, Volume
from s2vnet.io.lazy_image import LazyImage, as_lazy_image

Triple = tuple[float, float, float]
Pair = tuple[float, float]

SLICE_FACTOR = 1.5
"""Slices may be this many times thicker than in training; thinner ones are joined (:func:`joined`)."""
PIXEL_FACTOR = 2.0
"""Pixels may be this many times coarser than in training; finer ones are resampled and lose nothing."""
SIZE_FACTOR = 2.0
"""The field of view may be this many times smaller or larger than in training."""
TISSUE_MARGIN = 40.0
"""HU by which a volume's typical tissue may lie outside what training had: contrast phases differ by as much."""
BRIGHT = 95.0
"""Percentile of the values inside the window that tells whether vessels and organs are filled with contrast agent."""
BRIGHT_MARGIN = 20.0
"""HU by which it may lie outside what training had."""
SAMPLES = 1_000_000
"""Voxels of a volume that are looked at, about; a median needs no more."""
MIN_TISSUE_FRACTION = 0.02
"""Share of voxels inside the window under which a volume is hardly a CT in HU."""


class TrainingRanges(BaseModel):
    """Ranges over the training cases: smallest, then largest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spacing: tuple[Triple, Triple]
    """Voxel sizes along R, A, S in mm."""
    size: tuple[Triple, Triple]
    """Field of view along R, A, S in mm."""
    tissue: tuple[Pair, ...]
    """Per channel, the median of a case's values inside the foreground's window (percentiles 0.5 to 99.5)."""
    bright: tuple[Pair, ...] = ()
    """Likewise the 95th percentile; none in plans of earlier versions."""


def tissue(values: npt.NDArray[np.float32], low: float, high: float, percentile: float = 50.0) -> float:
    """Percentile of the values strictly inside a window: neither air nor clipping counts. NaN if there are none."""
    inside = values[(values > low) & (values < high)]
    return float(np.percentile(inside, percentile)) if inside.size else float("nan")


def slab_size(seen: TrainingRanges, axis: int, distance: float) -> int:
    """How many slices, `distance` mm apart across `axis` (R, A, S), come closest to the thinnest slice of training."""
    return max(1, round(seen.spacing[0][axis] / distance))


def range_warnings(
    seen: TrainingRanges, axis: int, windows: Sequence[Pair | None], image: Volume | LazyImage
) -> tuple[str, ...]:
    """In what a volume lies outside of what a network was trained on, a line each.

    Args:
        seen: what training had.
        axis: canonical axis (R, A, S) that slices cut across.
        windows: per channel, its window in HU, or None where intensities have no common scale.
        image: what is compared.
    """
    geometry = image.geometry.canonical()[0]
    found = _grid(seen, axis, geometry)
    brights = seen.bright or ((-np.inf, np.inf),) * len(seen.tissue)
    for channel, window, (low, high), (dark, bright) in zip(
        as_lazy_image(image).channels, windows, seen.tissue, brights, strict=True
    ):
        if window is None:
            continue
        some = channel.sample(SAMPLES)
        inside = np.count_nonzero((some > window[0]) & (some < window[1])) / some.size
        typical = tissue(some, *window)
        if inside < MIN_TISSUE_FRACTION:
            found.append(
                f"{inside:.1%} of the voxels lie within {window[0]:g} to {window[1]:g} HU; is this a CT in HU, "
                "with its slope and intercept?"
            )
        elif not low - TISSUE_MARGIN <= typical <= high + TISSUE_MARGIN:
            found.append(f"typical tissue has {typical:.0f} HU, in training {low:.0f} to {high:.0f}")
        elif not dark - BRIGHT_MARGIN <= (top := tissue(some, *window, BRIGHT)) <= bright + BRIGHT_MARGIN:
            found.append(
                f"5% of the tissue have more than {top:.0f} HU, in training {dark:.0f} to {bright:.0f}; "
                "is this another contrast phase?"
            )
    return tuple(found)


def _grid(seen: TrainingRanges, axis: int, geometry: Geometry) -> list[str]:
    found = []
    thin, thick = (bound[axis] for bound in seen.spacing)
    if geometry.spacing[axis] > thick * SLICE_FACTOR:
        found.append(f"slices are {geometry.spacing[axis]:.3g} mm apart, in training {_range(thin, thick)} mm")
    coarse = [a for a in range(3) if a != axis and geometry.spacing[a] > PIXEL_FACTOR * seen.spacing[1][a]]
    if coarse:
        worst = max(coarse, key=lambda a: geometry.spacing[a] / seen.spacing[1][a])
        known = _range(seen.spacing[0][worst], seen.spacing[1][worst])
        found.append(f"pixels are {geometry.spacing[worst]:.3g} mm large, in training {known} mm")
    for a, name in enumerate(("right to left", "back to front", "foot to head")):
        size = geometry.shape[a] * geometry.spacing[a]
        least, most = (bound[a] for bound in seen.size)
        if not least / SIZE_FACTOR <= size <= most * SIZE_FACTOR:
            found.append(f"the volume is {size:.0f} mm long from {name}, in training {_range(least, most, 0)} mm")
    return found


def _range(low: float, high: float, digits: int = 2) -> str:
    a, b = f"{low:.{digits}f}", f"{high:.{digits}f}"
    return a if a == b else f"{a} to {b}"
