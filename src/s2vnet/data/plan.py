"""Plan of preprocessing and network: a pure function of a dataset's fingerprint, saved as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from s2vnet.data.fingerprint import Fingerprint
from s2vnet.data.training_ranges import TrainingRanges, range_warnings, slab_size
from s2vnet.errors import InputError
from s2vnet.io.geometry import Volume
from s2vnet.io.lazy_image import LazyImage
from s2vnet.utils.atomic_write import atomic_write
from s2vnet.utils.json_io import model_to_json, read_json
from s2vnet.utils.names import some_names
from s2vnet.utils.validation_errors import first_error

PLAN_VERSION = 1
ANISOTROPY_THRESHOLD = 1.5
"""Ratio of voxel sizes from which on volumes are sliced across their coarsest axis."""
MIN_CELLS_ACROSS = 8
"""Cells of the mask grid that the smallest class's median diameter should span, as far as the cost allows."""
MAX_PATCH = 256
"""Pixels per side of a training patch; larger slices are trained on crops of this size."""
MAX_FULL_RESOLUTION = 128
"""Pixels per side up to which masks at full resolution (stem stride 1) are affordable."""

Plane = Literal["sagittal", "coronal", "axial"]
PLANES: tuple[Plane, Plane, Plane] = ("sagittal", "coronal", "axial")
"""Slicing planes by the canonical axis (R, A, S) that they cut across."""


class IntensityScheme(BaseModel):
    """Intensity normalisation of one channel."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["ct", "zscore"]
    """``ct``: clip to a window, then the same z-score for every volume (HU are calibrated).
    ``zscore``: clip to the volume's 0.5 and 99.5 percentiles, then its own z-score (MR is uncalibrated)."""
    low: float = 0.0
    high: float = 0.0
    mean: float = 0.0
    std: float = 1.0


class Plan(BaseModel):
    """Preprocessing and network choices for a dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    dataset: str
    channels: tuple[str, ...]
    labels: dict[str, int]
    regions: dict[str, tuple[int, ...]] = {}
    """Label values by region: unions of classes that scores are reported for."""
    plane: Plane
    spacing: tuple[float, float]
    """Sampling (row, column) in plane, mm; slices are not resampled, but may be averaged (:meth:`slab_size`)."""
    patch_size: tuple[int, int]
    """Pixels (H, W) of training patches."""
    intensities: tuple[IntensityScheme, ...]
    crop_to_nonzero: bool
    """Whether volumes are cropped to the bounding box of nonzero voxels first."""
    context_slices: int = Field(default=1, ge=0)
    """Neighbouring slices on either side that are extra channels of a slice."""
    encoder: str
    stem_stride: Literal[1, 2, 4]
    clip_length: int = Field(default=6, ge=1)
    smallest_part: float = Field(default=0.0, ge=0, le=1)
    """Detached parts smaller than this fraction of their class's largest part are removed, unless a user has clicked on
    them; 0 keeps all. As for nnU-Net's post-processing, cross-validation decides."""
    mirrored: Literal["", "A", "S"] = ""
    """In-plane world axis whose direction the headers of training images state wrongly, if any. Each image is then
    tried both ways, and the one in which the network recognises more is used (docs/decisions/008). Not R: left and
    right look alike."""
    seen: TrainingRanges | None = None
    """Ranges of the training cases; None in plans of earlier versions."""

    @model_validator(mode="after")
    def _validate(self) -> Plan:
        if min(self.spacing) <= 0 or min(self.patch_size) <= 0:
            raise ValueError("spacing and patch_size must be above 0")
        if len(self.intensities) != len(self.channels):
            raise ValueError(f"{len(self.intensities)} intensity schemes for {len(self.channels)} channels")
        if self.mirrored and "RAS".index(self.mirrored) == self.axis:
            raise ValueError(f"mirrored {self.mirrored} must lie in the {self.plane} plane")
        if sorted(self.labels.values()) != list(range(len(self.labels))):
            raise ValueError(f"label values must be 0, 1, 2, ... without gaps, not {sorted(self.labels.values())}")
        return self

    def require_dataset(self, channels: Sequence[str], labels: Mapping[str, int]) -> None:
        """Check that a dataset has the channels and labels that the plan was made for.

        Raises:
            InputError: another number of channels, or other classes.
        """
        if len(channels) != len(self.channels):
            raise InputError(
                f"the plan is for {len(self.channels)} channels, the dataset has {len(channels)}; make a new plan"
            )
        if dict(labels) != self.labels:
            raise InputError(
                f"the plan is for labels {_labels(self.labels)}, the dataset has {_labels(labels)}; make a new plan"
            )

    def range_warnings(self, volume: Volume | LazyImage) -> tuple[str, ...]:
        """One-line warnings about properties of a volume outside the ranges of the training cases."""
        if self.seen is None:
            return ()
        windows = [(scheme.low, scheme.high) if scheme.kind == "ct" else None for scheme in self.intensities]
        return range_warnings(self.seen, self.axis, windows, volume)

    def slab_size(self, distance: float) -> int:
        """Number of adjacent slices, `distance` mm apart, to average for about the thickness of training slices."""
        return 1 if self.seen is None else slab_size(self.seen, self.axis, distance)

    @property
    def class_names(self) -> dict[int, str]:
        """Class name by label value, background included."""
        return {value: name for name, value in self.labels.items()}

    @property
    def network(self) -> dict[str, int]:
        """Settings of a network that fits the plan."""
        return {"in_channels": self.in_channels, "num_classes": self.num_classes, "stem_stride": self.stem_stride}

    @property
    def axis(self) -> int:
        """Canonical axis (R, A, S) that slices cut across."""
        return PLANES.index(self.plane)

    @property
    def num_classes(self) -> int:
        """Number of classes, with background."""
        return len(self.labels)

    @property
    def in_channels(self) -> int:
        """Channels of the network's input: all image channels of a slice and of its neighbours."""
        return len(self.channels) * (2 * self.context_slices + 1)

    @property
    def pad_multiple(self) -> int:
        """Slices are padded to a multiple of this number of pixels."""
        return 8 * self.stem_stride


def make_plan(fingerprint: Fingerprint, sampling: float | None = None) -> Plan:
    """Choose plane, sampling, intensity scheme, crop, encoder and clip length.

    Args:
        fingerprint: fingerprint of the dataset.
        sampling: pixel size in plane, mm; chosen from the dataset if None. Larger pixels make the network faster.
    """
    axis = _slicing_axis(fingerprint)
    row, column = (fingerprint.spacing[a] for a in range(3) if a != axis)
    smallest = min((extent.diameter_mm[axis] for extent in fingerprint.extents.values()), default=math.inf)
    base = min(row, column) if sampling is None else sampling
    sides = [fingerprint.shape[a] * fingerprint.spacing[a] for a in range(3) if a != axis]
    least = 1 if max(sides) <= MAX_FULL_RESOLUTION * base else 2
    stride = next((s for s in (4, 2) if smallest >= MIN_CELLS_ACROSS * s * base), least)
    zoom = min(2.0, max(1.0, MIN_CELLS_ACROSS * base / smallest)) if stride == 1 and sampling is None else 1.0
    spacing = (round(base / zoom, 4), round(base / zoom, 4))
    multiple = 8 * stride
    # rounded first, so that a rounding error in 24 voxels of 0.1 mm does not add a pixel
    patch = [min(MAX_PATCH, multiple * math.ceil(round(s / spacing[0] / multiple, 6))) for s in sides]
    return Plan(
        dataset=fingerprint.dataset,
        channels=fingerprint.channels,
        labels=fingerprint.labels,
        regions=fingerprint.regions,
        plane=PLANES[axis],
        spacing=spacing,
        patch_size=(patch[0], patch[1]),
        intensities=tuple(
            IntensityScheme(kind="ct", low=i.percentile_00_5, high=i.percentile_99_5, mean=i.mean, std=max(i.std, 1e-6))
            if "ct" in name.lower().split()
            else IntensityScheme(kind="zscore")
            for name, i in zip(fingerprint.channels, fingerprint.intensities, strict=True)
        ),
        crop_to_nonzero=fingerprint.nonzero_fraction < 0.75,
        encoder=_encoder(patch[0] * patch[1], stride),
        stem_stride=stride,
        seen=fingerprint.seen,
    )


def _labels(labels: Mapping[str, int]) -> str:
    return some_names((f"{value} {name}" for name, value in labels.items()), 20)


def _encoder(pixels: int, stride: int) -> str:
    """Pretrained encoder where its stem fits (docs/decisions/007-abdomen.md), else a narrower one for fewer cells."""
    if stride == 2:
        return "efficientnet-lite0"
    return "compact" if pixels <= (64 * stride) ** 2 else "small"


def _slicing_axis(fingerprint: Fingerprint) -> int:
    """Coarsest axis; on isotropic data, the axis along which the image is longest.

    With more, smaller slices, more depends on propagation; measured on the hippocampus in docs/decisions/003-plan.md.
    """
    spacing = fingerprint.spacing
    if max(spacing) >= ANISOTROPY_THRESHOLD * min(spacing):
        return spacing.index(max(spacing))
    sizes = [n * s for n, s in zip(fingerprint.shape, spacing, strict=True)]
    return sizes.index(max(sizes))


def save_json(value: BaseModel, path: Path) -> None:
    """Write a plan or fingerprint as JSON, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(model_to_json(value) + b"\n")


def read_plan(path: Path) -> Plan:
    """Read a plan from JSON.

    Raises:
        InputError: no such file, or not a plan of this version.
    """
    try:
        return Plan.model_validate(read_json(path))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; make one with `s2vnet plan`") from error
    except ValidationError as error:
        raise InputError(f"{path}: not a plan of version {PLAN_VERSION} ({first_error(error)})") from error
    except ValueError as error:
        raise InputError(f"{path}: not a plan of version {PLAN_VERSION} (not valid JSON)") from error
