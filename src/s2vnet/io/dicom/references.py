"""What objects derived from a DICOM series (SEG, RTSTRUCT) state of it: its slices in order, and their headers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from s2vnet.errors import InputError
from s2vnet.io.dicom.series import Plane, series_slices, stack
from s2vnet.io.dicom.zip_archive import open_series_folder
from s2vnet.io.geometry import Geometry

EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime"),
    *("AccessionNumber", "ReferringPhysicianName"),
)
"""Attributes that may be empty but have to be there; anonymisers take them out."""
STATED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
SERIES_NUMBER = 300
"""Of a series written; far from those that scanners count."""


class Source(NamedTuple):
    """A series as others refer to it."""

    geometry: Geometry
    planes: tuple[Plane, ...]
    """In the order of the volume's slices (k)."""
    images: tuple[Any, ...]
    """Headers of the files in that order; one of a multi-frame file."""

    @property
    def frames(self) -> list[int] | None:
        """Frame, from 0, of each slice; None where each is a file."""
        frames = [plane.frame for plane in self.planes if plane.frame is not None]
        return frames or None


def read_referenced_series(series: Path | str) -> Source:
    """Slices and headers of a series' folder, or of a zip archive of it; what may be empty is there and empty.

    Raises:
        InputError: images without what others refer to, or as :func:`s2vnet.io.dicom.series.series_slices`.
    """
    from pydicom import dcmread

    with open_series_folder(series) as folder:
        planes = series_slices(folder)
        files = dict.fromkeys(plane.file for plane in planes)
        try:
            images = tuple(dcmread(file, stop_before_pixels=True, force=True) for file in files)
            stated = [[getattr(image, name, None) for name in STATED] for image in images]
        except Exception as error:  # pydicom has a kind of its own for each of many faults
            raise InputError(f"{series}: a damaged DICOM header ({type(error).__name__}); copy it again") from error
        geometry = stack(folder, planes)
    for image, values in zip(images, stated, strict=True):
        for name in EMPTY:
            if name not in image:
                setattr(image, name, "")
        absent = next((name for name, value in zip(STATED, values, strict=True) if not value), None)
        if absent is not None:
            raise InputError(f"{series}: images without {absent}, which is referred to; write .nii.gz instead")
    return Source(geometry, planes, images)
