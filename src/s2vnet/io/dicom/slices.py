"""Slices of a DICOM series by the headers of its files, single or multi-frame, and the grid that they form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from s2vnet.errors import InputError
from s2vnet.io.geometry import FloatArray, Geometry
from s2vnet.io.header_checks import MIN_PLAUSIBLE_NBYTES, require_plausible_size
from s2vnet.io.itk import geometry_from_itk, silence_stderr
from s2vnet.io.native_paths import readable_paths
from s2vnet.utils.memory import is_out_of_memory

SLICE_TOLERANCE = 0.05
"""Largest deviation of a slice from an even spacing, in slice distances (positions are rounded text)."""

_PLANE_TOLERANCE = 1e-3
"""Largest difference of direction cosines, and relative difference of pixel sizes, between slices of one series."""

_FRAMES, _MODALITY = "0028|0008", "0008|0060"


class SeriesSlice(NamedTuple):
    """One slice of a series: a file, or a frame of one."""

    file: Path
    geometry: Geometry
    """Grid of this slice alone."""
    components: int = 1
    """Samples per pixel."""
    frame: int | None = None
    """Index of the frame, from 0; None for a file of one image."""
    rescale: tuple[float, float] = (1.0, 0.0)
    """Slope and intercept of a frame; ITK applies those of a file of one image."""
    modality: str | None = None
    """Modality by the header, such as ``CT``; None where it states none."""

    @property
    def position(self) -> FloatArray:
        """Centre (3,) of the first pixel, LPS mm."""
        return self.geometry.affine_lps[:3, 3]

    @property
    def name(self) -> str:
        """Name in messages."""
        return self.file.name if self.frame is None else f"frame {self.frame + 1}"


def read_slices(file: Path) -> list[SeriesSlice]:
    """Read the slices of one file from its header, in the order of its frames.

    Raises:
        InputError: no usable geometry, or frames without positions.
    """
    try:
        with silence_stderr():
            header = _read_itk_header(file)
        components = header.GetNumberOfComponents()
        require_plausible_size(file, math.prod(header.GetSize()), components, MIN_PLAUSIBLE_NBYTES)
        modality = header.GetMetaData(_MODALITY).strip("\0 ") if header.HasMetaDataKey(_MODALITY) else ""
        if not (header.HasMetaDataKey(_FRAMES) and parse_integer(header.GetMetaData(_FRAMES)) > 1):
            return [SeriesSlice(file, geometry_from_itk(header), components, modality=modality or None)]
    except (RuntimeError, InputError) as error:
        if is_out_of_memory(error):
            raise
        raise InputError("no usable DICOM geometry; take the file out of the folder", path=file) from error
    return [one._replace(modality=modality or None) for one in _read_frames(file, components)]


def stack_geometry(folder: Path | str, slices: Sequence[SeriesSlice]) -> Geometry:
    """Grid of ordered slices. Its step is that of their positions, so a tilted gantry gives a sheared affine.

    Raises:
        InputError: duplicate or missing slices, mixed sizes or planes, colour.
    """
    first = slices[0]
    if any(one.components != 1 for one in slices):
        raise InputError("colour images; a grey-value series is needed", path=folder)
    if len(slices) == 1:
        return first.geometry
    for one in slices:
        _require_same_plane(first, one)
    affine = first.geometry.affine_lps
    affine[:3, 2] = _even_step(folder, slices)
    return Geometry.from_lps((*first.geometry.shape[:2], len(slices)), affine)


def parse_integer(text: str) -> int:
    """Parse an integer in a header; 2**31 for text that is not an integer."""
    return int(text) if text.strip().lstrip("-").isdecimal() else 2**31


def _read_itk_header(file: Path) -> Any:
    """SimpleITK's reader of a file, with its header read."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    with readable_paths([file]) as (name,):
        reader.SetFileName(name)
        reader.ReadImageInformation()
    return reader


def _read_frames(file: Path, components: int) -> list[SeriesSlice]:
    """Frames of a multi-frame file by their functional groups (PS3.3 C.7.6.16)."""
    from pydicom import dcmread

    try:
        image = dcmread(file, stop_before_pixels=True, force=True)
        shared = list(image.get("SharedFunctionalGroupsSequence") or ())[:1]
        slices = [
            _read_frame(file, image, [frame, *shared], number, components)
            for number, frame in enumerate(image.PerFrameFunctionalGroupsSequence)
        ]
        frames = int(image.NumberOfFrames)
    except Exception as error:  # pydicom has an exception type for each of many faults
        if is_out_of_memory(error):
            raise
        raise InputError(
            "frames without a position each; export them as single files, or as NIfTI", path=file
        ) from error
    if len(slices) != frames:
        raise InputError(f"{frames} frames, but positions of {len(slices)}; export it again", path=file)
    if slices[0].rescale[0] == 0:  # ITK scales all frames by it
        raise InputError("the first frame's rescale slope is 0; export it again", path=file)
    return slices


def _read_frame(file: Path, image: Any, groups: list[Any], number: int, components: int) -> SeriesSlice:
    def functional_group(name: str) -> Any:
        """Functional group of the frame, else the shared one, else None."""
        return next((group[name][0] for group in groups if group.get(name)), None)

    position = functional_group("PlanePositionSequence")
    orientation = functional_group("PlaneOrientationSequence")
    measures = functional_group("PixelMeasuresSequence")
    if position is None or orientation is None or measures is None:
        raise ValueError("no position")
    cosines, sizes = (np.array(v, float) for v in (orientation.ImageOrientationPatient, measures.PixelSpacing))
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = cosines[:3] * sizes[1], cosines[3:] * sizes[0]
    affine[:3, 2] = np.cross(cosines[:3], cosines[3:]) * float(measures.get("SliceThickness") or 1)
    affine[:3, 3] = np.array(position.ImagePositionPatient, float)
    values = functional_group("PixelValueTransformationSequence")
    rescale = (1.0, 0.0) if values is None else (float(values.RescaleSlope), float(values.RescaleIntercept))
    return SeriesSlice(file, Geometry.from_lps((image.Columns, image.Rows, 1), affine), components, number, rescale)


def _require_same_plane(first: SeriesSlice, other: SeriesSlice) -> None:
    a, b = first.geometry, other.geometry
    same_directions = np.abs(a.direction - b.direction).max() <= _PLANE_TOLERANCE
    same_pixels = np.allclose(a.spacing[:2], b.spacing[:2], rtol=_PLANE_TOLERANCE, atol=0)
    if a.shape != b.shape or a.shape[2] != 1 or not same_directions or not same_pixels:
        names = f"{first.file if first.frame is None else first.name} and {other.name}"
        raise InputError(f"{names}: slices differ in size, pixel size or plane; take the odd one out")


def _even_step(folder: Path | str, slices: Sequence[SeriesSlice]) -> FloatArray:
    """Step (3,) between adjacent slices in LPS mm. Raises InputError for duplicate, missing or uneven slices."""
    positions = np.stack([one.position for one in slices])
    gaps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    step: FloatArray = (positions[-1] - positions[0]) / (len(slices) - 1)
    nonzero_gaps = gaps[gaps > gaps.max() / 1000]
    limit = SLICE_TOLERANCE * float(np.median(nonzero_gaps)) if len(nonzero_gaps) else 0.0
    smallest = int(gaps.argmin())
    if gaps[smallest] <= limit:
        names, pairs = f"{slices[smallest].name} and {slices[smallest + 1].name}", int((gaps <= limit).sum())
        hint = f" (so do {pairs} pairs: several phases, echoes or exports in one series?)" if pairs > 1 else ""
        raise InputError(f"{names} lie at the same position{hint}; keep one of them", path=folder)
    expected = positions[0] + np.arange(len(slices))[:, None] * step
    if np.linalg.norm(positions - expected, axis=1).max() > limit:
        widest = int(gaps.argmax())
        where = f"{gaps.min():.4g} to {gaps.max():.4g} mm apart, widest after {slices[widest].name}"
        raise InputError(f"slices are {where}; a slice is missing or the spacing is uneven", path=folder)
    return step
