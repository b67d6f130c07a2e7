"""What derived objects (SEG, RTSTRUCT) refer to: a series' ordered slices, and headers that can be referred to.

Headers are not those of the files, whose other attributes may be damaged, but new ones of the attributes that a
reference needs: identifiers, and the grid as it was read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from s2vnet.errors import InputError
from s2vnet.io.dicom.patient_study import CHARACTER_SET, TYPE_2_ATTRIBUTES, patient_and_study
from s2vnet.io.dicom.series import image_headers, series_slices
from s2vnet.io.dicom.slices import SeriesSlice, stack_geometry
from s2vnet.io.dicom.zip_archive import open_series_folder
from s2vnet.io.geometry import Geometry
from s2vnet.io.library_output import quiet_libraries

_IN_FILE_META = {"SOPClassUID": "MediaStorageSOPClassUID", "SOPInstanceUID": "MediaStorageSOPInstanceUID"}
"""Attributes by which an image is referred to, and where the file meta information repeats them."""
SERIES_NUMBER = 300
"""Number of a written series; far from the numbers that scanners assign."""


def series_attributes(folder: Path, keywords: Sequence[str]) -> dict[str, str]:
    """Return attributes of the first DICOM image in a folder as text, by keyword; those it lacks are left out.

    Without any image, or with a damaged one, the result is empty: reading the image itself says what is wrong.
    """
    from pydicom import dcmread

    try:
        file = next((file for file, _ in image_headers(folder)), None)
        header = (
            {} if file is None else dcmread(file, stop_before_pixels=True, force=True, specific_tags=list(keywords))
        )
        return {name: str(value) for name in keywords if (value := header.get(name))}
    except Exception:  # pydicom has an exception type for each of many faults
        return {}


class ReferencedSeries(NamedTuple):
    """A series that a derived object refers to."""

    geometry: Geometry
    slices: tuple[SeriesSlice, ...]
    """In the order of the volume (k)."""
    images: tuple[Any, ...]
    """New headers (pydicom) of the files in that order, without a patient; a multi-frame file has one."""
    patient: Any
    """Patient and study attributes (pydicom data set)."""
    notes: tuple[str, ...] = ()
    """What differs from the files' headers, one line each, without values."""

    @property
    def frames(self) -> list[int] | None:
        """Frame, from 0, of each slice; None where each slice is a file."""
        frames = [one.frame for one in self.slices if one.frame is not None]
        return frames or None


@quiet_libraries()
def read_referenced_series(series: Path | str) -> ReferencedSeries:
    """Read slices and headers of a series' folder or zip archive.

    Raises:
        InputError: images without SOPClassUID, or as :func:`s2vnet.io.dicom.series.series_slices`.
    """
    from pydicom import dcmread

    with open_series_folder(series) as folder:
        slices = series_slices(folder)
        geometry = stack_geometry(folder, slices)
        files = dict.fromkeys(one.file for one in slices)
        try:
            headers = [dcmread(file, stop_before_pixels=True, force=True) for file in files]
            identifiers = [{name: _identifier(header, name) for name in _IDENTIFIERS} for header in headers]
            patient, notes = patient_and_study(headers[0])
            modality = str(headers[0].get("Modality") or "OT")
            indicator = str(headers[0].get("PositionReferenceIndicator") or "")
            thickness = _thickness(headers[0], geometry)
        except Exception as error:  # pydicom has an exception type for each of many faults
            raise InputError(f"{series}: a damaged DICOM header ({type(error).__name__}); copy it again") from error
    if not all(each["SOPClassUID"] for each in identifiers):
        raise InputError(f"{series}: images without SOPClassUID, which the output needs; write .nii.gz instead")
    notes += _unify(identifiers)
    notes += _identify(identifiers)
    images = []
    for each, one in zip(identifiers, slices, strict=False):
        image = _make_header(each, one, thickness)
        image.Modality, image.PositionReferenceIndicator = modality, indicator
        if one.frame is not None:
            _add_frames(image, slices, thickness)
        images.append(image)
    return ReferencedSeries(geometry, slices, tuple(images), patient, tuple(notes))


_SHARED_IDENTIFIERS = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
"""Attributes that are equal in all images of a series; anonymisers remove them."""
_IDENTIFIERS = (*_IN_FILE_META, *_SHARED_IDENTIFIERS)


def _identifier(header: Any, name: str) -> str:
    """A UID of a header, or of the file meta information; empty where there is none."""
    value = header.get(name) or header.file_meta.get(_IN_FILE_META.get(name, name))
    return str(value or "").strip("\0 ")


def _unify(identifiers: list[dict[str, str]]) -> list[str]:
    """Give all images one study, series and frame of reference, and return what was changed."""
    from pydicom.uid import generate_uid

    notes = []
    for name in _SHARED_IDENTIFIERS:
        found = list(dict.fromkeys(each[name] for each in identifiers if each[name]))
        if not found:
            notes.append(f"{name} is missing; a new one is written")
        elif len(found) > 1:
            notes.append(f"{name} differs between images; that of the first is written")
        chosen = found[0] if found else str(generate_uid())
        for each in identifiers:
            each[name] = chosen
    return notes


def _identify(identifiers: list[dict[str, str]]) -> list[str]:
    """Give images without a UID a new one, and return what viewers that look images up by UID will not find."""
    from pydicom.uid import generate_uid

    missing = [each for each in identifiers if not each["SOPInstanceUID"]]
    for each in missing:
        each["SOPInstanceUID"] = str(generate_uid())
    notes = ["SOPInstanceUID is missing; the output refers to images by new ones, which only it has"] if missing else []
    if len({each["SOPInstanceUID"] for each in identifiers}) < len(identifiers):
        notes.append("several images have the same SOPInstanceUID; only positions tell which of them is meant")
    return notes


def _thickness(header: Any, geometry: Geometry) -> float:
    """Slice thickness by a header, else the distance between slices, mm."""
    try:
        thickness = float(header.SliceThickness)
    except (AttributeError, TypeError, ValueError):
        thickness = 0.0
    return thickness if 0 < thickness < float("inf") else geometry.spacing[2]


def _make_header(identifiers: dict[str, str], one: SeriesSlice, thickness: float) -> Any:
    """Header of the image of a slice, with empty patient and study attributes."""
    from pydicom import DataElement, Dataset
    from pydicom.config import IGNORE
    from pydicom.datadict import tag_for_keyword

    header = Dataset()
    header.SpecificCharacterSet = CHARACTER_SET
    for name in TYPE_2_ATTRIBUTES:
        setattr(header, name, "")
    for name, value in identifiers.items():
        header.add(DataElement(tag_for_keyword(name) or 0, "UI", value, validation_mode=IGNORE))
    header.Columns, header.Rows = one.geometry.shape[:2]
    if one.frame is None:
        header.PixelSpacing, header.SliceThickness = _pixel_spacing(one), _decimal(thickness)
        header.ImageOrientationPatient, header.ImagePositionPatient = _cosines(one), _position(one)
    return header


def _add_frames(header: Any, slices: Sequence[SeriesSlice], thickness: float) -> None:
    """Add functional groups of a multi-frame file with the grids of its frames."""
    from pydicom import Dataset

    ordered = sorted(slices, key=lambda one: one.frame or 0)
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = _pixel_spacing(ordered[0]), _decimal(thickness)
    orientation.ImageOrientationPatient = _cosines(ordered[0])
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    header.SharedFunctionalGroupsSequence, frames = [shared], []
    for one in ordered:
        frame, position = Dataset(), Dataset()
        position.ImagePositionPatient = _position(one)
        frame.PlanePositionSequence = [position]
        frames.append(frame)
    header.PerFrameFunctionalGroupsSequence, header.NumberOfFrames = frames, len(frames)


def _pixel_spacing(one: SeriesSlice) -> list[str]:
    i, j, _ = one.geometry.spacing
    return [_decimal(j), _decimal(i)]


def _cosines(one: SeriesSlice) -> list[str]:
    affine = one.geometry.affine_lps[:3, :2] / one.geometry.spacing[:2]
    return [_decimal(value) for value in affine.T.ravel()]


def _position(one: SeriesSlice) -> list[str]:
    return [_decimal(value) for value in one.position]


def _decimal(value: float) -> str:
    """Text of at most 16 characters (PS3.5, 6.2: DS)."""
    from pydicom.valuerep import format_number_as_ds

    return str(format_number_as_ds(round(float(value), 9) + 0.0))
