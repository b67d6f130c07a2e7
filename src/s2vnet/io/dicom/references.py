"""Attributes of a DICOM series that derived objects (SEG, RTSTRUCT) refer to: ordered slices and their headers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from s2vnet.errors import InputError
from s2vnet.io.dicom.series import series_slices
from s2vnet.io.dicom.slices import SeriesSlice, stack_geometry
from s2vnet.io.dicom.zip_archive import open_series_folder
from s2vnet.io.geometry import Geometry

TYPE_2_ATTRIBUTES = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime"),
    *("AccessionNumber", "ReferringPhysicianName"),
)
"""Attributes that are required but may be empty (PS3.5, 7.4); anonymisation removes them."""
REQUIRED_ATTRIBUTES = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
SERIES_NUMBER = 300
"""Number of a written series; far from the numbers that scanners assign."""


class ReferencedSeries(NamedTuple):
    """A series that a derived object refers to."""

    geometry: Geometry
    slices: tuple[SeriesSlice, ...]
    """In the order of the volume (k)."""
    images: tuple[Any, ...]
    """Headers (pydicom) of the files in that order; a multi-frame file has one."""

    @property
    def frames(self) -> list[int] | None:
        """Frame, from 0, of each slice; None where each slice is a file."""
        frames = [one.frame for one in self.slices if one.frame is not None]
        return frames or None


def read_referenced_series(series: Path | str) -> ReferencedSeries:
    """Read slices and headers of a series' folder or zip archive; missing type 2 attributes are added, empty.

    Raises:
        InputError: images without required attributes, or as :func:`s2vnet.io.dicom.series.series_slices`.
    """
    from pydicom import dcmread

    with open_series_folder(series) as folder:
        slices = series_slices(folder)
        files = dict.fromkeys(one.file for one in slices)
        try:
            images = tuple(dcmread(file, stop_before_pixels=True, force=True) for file in files)
            required = [[getattr(image, name, None) for name in REQUIRED_ATTRIBUTES] for image in images]
        except Exception as error:  # pydicom has an exception type for each of many faults
            raise InputError(f"{series}: a damaged DICOM header ({type(error).__name__}); copy it again") from error
        geometry = stack_geometry(folder, slices)
    for image, values in zip(images, required, strict=True):
        for name in TYPE_2_ATTRIBUTES:
            if name not in image:
                setattr(image, name, "")
        missing = next((name for name, value in zip(REQUIRED_ATTRIBUTES, values, strict=True) if not value), None)
        if missing is not None:
            raise InputError(f"{series}: images without {missing}, which the output needs; write .nii.gz instead")
    return ReferencedSeries(geometry, slices, images)
