"""Modality that a model is for, and whether an image contradicts it: by its DICOM header, else by its voxels."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from s2vnet.io.geometry import Volume
from s2vnet.io.lazy_image import LazyImage, as_lazy_image

_MR_NAMES = frozenset(
    (
        "mr",
        "mri",
        "t1",
        "t1w",
        "t1n",
        "t1c",
        "t1ce",
        "t1gd",
        "t2",
        "t2w",
        "t2f",
        "t2star",
        "flair",
        "dwi",
        "adc",
        "dce",
        "pd",
        "pdw",
        "swi",
        "bssfp",
        "lge",
    )
)
_OTHER = frozenset(("PT", "NM", "US", "XA", "MG", "CR", "DX", "RF", "OPT", "SM"))
"""DICOM modalities that are neither CT nor MR."""
_SAMPLE = 1_000_000
"""Approximate number of voxels that are looked at."""
FAT_HU, MIN_FRACTION_BELOW_FAT = -50.0, 0.001
"""A CT has at least this fraction of voxels below fat's upper limit: fat and air are in every field of view."""
AIR_HU, MIN_FRACTION_OF_AIR = -100.0, 0.2
"""An image with at least this fraction of voxels far below 0 is a CT in HU, also if it is clipped to a window."""


def model_modality(channels: Sequence[str]) -> str | None:
    """Modality of a model by the names of its channels: ``CT``, ``MR``, or None for mixed and unknown ones."""
    found = {_channel_modality(channel) for channel in channels}
    return found.pop() if len(found) == 1 else None


def modality_conflict(expected: str | None, image: Volume | LazyImage) -> str | None:
    """Reason why an image is not of the modality that a model is for; None where nothing contradicts it.

    Args:
        expected: of :func:`model_modality`.
        image: the image in its file's units; its DICOM header decides, where it states a modality.
    """
    if is_modality(image.modality):
        return header_conflict(expected, image.modality)
    if expected is None:
        return None
    sample = as_lazy_image(image).channels[0].sample(_SAMPLE)
    if expected == "CT" and np.mean(sample < FAT_HU) < MIN_FRACTION_BELOW_FAT:
        return (
            f"no CT in HU, which the model is for: its smallest value is {sample.min():.4g}, but fat and air lie below "
            f"{FAT_HU:g} HU"
        )
    if expected == "MR" and np.mean(sample < AIR_HU) >= MIN_FRACTION_OF_AIR:
        return f"a CT by its values, which reach down to {sample.min():.4g}, and the model is for MR"
    return None


def is_modality(stated: str | None) -> bool:
    """Whether a DICOM header states what made the image, so that its voxels need not be looked at."""
    return stated in ("CT", "MR") or stated in _OTHER


def header_conflict(expected: str | None, stated: str | None) -> str | None:
    """Reason why the modality of a DICOM header is not the one that a model is for; None where it does not differ."""
    if expected is None or stated == expected or not is_modality(stated):
        return None
    return f"{stated} by its DICOM header, and the model is for {expected}"


def _channel_modality(channel: str) -> str | None:
    words = set(re.split(r"[^a-z0-9]+", channel.lower()))
    modalities = {name for name, names in (("CT", {"ct"}), ("MR", _MR_NAMES)) if words & names}
    return modalities.pop() if len(modalities) == 1 else None
