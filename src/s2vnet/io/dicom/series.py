"""One DICOM series in a folder, read by SimpleITK's GDCM reader (pixels, rescale slope), its grid by positions.

A series is a file per slice, or one multi-frame file (enhanced CT or MR). Of the latter ITK takes the first two frames'
places, and the first one's rescale slope, for all; both are read frame by frame here, by pydicom.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from s2vnet.errors import InputError, OutOfMemory
from s2vnet.io.dicom.validate import MODALITY, SERIES_NUMBER, SERIES_UID, is_image, read_header
from s2vnet.io.dicom.zip_archive import is_zip, open_series_folder
from s2vnet.io.geometry import FloatArray, Geometry, Volume
from s2vnet.io.header_checks import MIN_PLAUSIBLE_NBYTES, require_plausible_size
from s2vnet.io.itk import geometry_from_itk, silence_stderr
from s2vnet.utils.memory import is_out_of_memory

SLICE_TOLERANCE = 0.05
"""How far, in slice distances, a slice may lie from its place in an even stack (positions are rounded text)."""

_PLANE_TOLERANCE = 1e-3
"""Largest difference of direction cosines, and relative difference of pixel sizes, between slices of one series."""

_FRAMES = "0028|0008"
_NO_SCANS = ("SEG", "RTSTRUCT", "RTDOSE", "RTPLAN", "SR", "PR", "KO", "DOC")
"""Modalities of what lies beside images in a study and is none to segment."""


class Plane(NamedTuple):
    """One slice of a series: a file, or a frame of one."""

    file: Path
    geometry: Geometry
    """Grid of this slice alone."""
    components: int = 1
    frame: int | None = None
    """From 0; None for a file of one image."""
    rescale: tuple[float, float] = (1.0, 0.0)
    """Slope and intercept of a frame; those of a file are ITK's business."""

    @property
    def position(self) -> FloatArray:
        """Centre (3,) of the first pixel, LPS mm."""
        return self.geometry.affine_lps[:3, 3]

    @property
    def name(self) -> str:
        """For messages."""
        return self.file.name if self.frame is None else f"frame {self.frame + 1}"


def series_slices(folder: Path | str, *, series: str | None = None) -> tuple[Plane, ...]:
    """Slices of the folder's series in the order of the volume (k).

    Args:
        folder: searched without its subfolders; what is no DICOM image (reports, notes, SEG) is passed over.
        series: SeriesInstanceUID, or the number that the refusal of a folder with several series gives each.

    Raises:
        InputError: no such folder, no series or several in it, a truncated or damaged image, frames without places.
    """
    return tuple(_sorted_planes(Path(folder), series))


def series_files(folder: Path | str, *, series: str | None = None) -> tuple[Path, ...]:
    """Files of :func:`series_slices`, each once. Arguments and errors as there."""
    return tuple(dict.fromkeys(plane.file for plane in series_slices(folder, series=series)))


def series_geometry(folder: Path | str, *, series: str | None = None) -> Geometry:
    """Grid of the volume that :func:`read_series` gives, from the headers alone. Arguments and errors as there."""
    return stack(folder, series_slices(folder, series=series))


@contextmanager
def select_series(path: Path | str, series: str | None) -> Iterator[Path]:
    """A folder with one series of a DICOM folder or zip archive alone, until the block ends; None leaves the path.

    Raises:
        InputError: neither folder nor archive, no such series, or as :func:`series_slices`.
    """
    path = Path(path)
    if series is None:
        yield path
        return
    if not (path.is_dir() or is_zip(path)):
        raise InputError(f"{path}: --series chooses from a DICOM folder or a .zip of one")
    with tempfile.TemporaryDirectory(prefix="s2vnet-") as name:
        target = Path(name) / f"{path.stem if is_zip(path) else path.name}-{series}"
        target.mkdir()
        with open_series_folder(path) as folder:
            for number, file in enumerate(series_files(folder, series=series)):
                shutil.copyfile(file, target / f"{number:05d}.dcm")
        try:
            yield target
        except InputError as error:
            raise type(error)(str(error).replace(str(target), str(path))) from error


def read_series(folder: Path | str, *, series: str | None = None) -> Volume:
    """Read one series as a volume (1, I, J, K): i along rows, j along columns, k along the slices, in HU for CT.

    The step between slices is that of their positions, so a tilted gantry gives a sheared affine. Arguments as in
    :func:`series_slices`.

    Raises:
        InputError: as :func:`series_slices`; duplicate or missing slices, mixed sizes or planes, colour, damaged
            pixels.
    """
    import SimpleITK as sitk

    planes = series_slices(folder, series=series)
    geometry = stack(folder, planes)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(list(dict.fromkeys(str(plane.file) for plane in planes)))
    reader.SetImageIO("GDCMImageIO")  # also of files without preamble, which no reader takes for its own
    # each file keeps its own slope and intercept (PET), so no integer type fits all
    reader.SetOutputPixelType(sitk.sitkFloat32)
    try:
        with silence_stderr():
            array: npt.NDArray[np.float32] = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise OutOfMemory(f"{folder}: not enough memory for this series; crop it") from error
        raise InputError(f"{folder}: the series' pixels cannot be read; copy the files again") from error
    if planes[0].frame is not None:
        array = _of_frames(array, planes)
    return Volume(array.transpose(2, 1, 0)[None], geometry)


def _of_frames(array: npt.NDArray[np.float32], planes: tuple[Plane, ...]) -> npt.NDArray[np.float32]:
    """Slices (K, J, I), of (1, K, J, I) frames that all got the first one's slope and intercept."""
    first = next(plane.rescale for plane in planes if plane.frame == 0)
    array = array.reshape(-1, *array.shape[-2:])[[plane.frame or 0 for plane in planes]]
    for k, plane in enumerate(planes):
        if plane.rescale != first:
            array[k] = (array[k] - first[1]) / first[0] * plane.rescale[0] + plane.rescale[1]
    return array


def _sorted_planes(folder: Path, series: str | None) -> list[Plane]:
    files = _series(folder, series)
    planes = [plane for file in files for plane in _read_planes(file)]
    if len(files) > 1 and any(plane.frame is not None for plane in planes):
        raise InputError(f"{folder}: {len(files)} files of a series, some with many frames; keep one of them")
    normal = np.cross(*planes[0].geometry.affine_lps[:3, :2].T)
    return sorted(planes, key=lambda plane: float(plane.position @ normal))


def _series(folder: Path, chosen: str | None) -> tuple[Path, ...]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    found: dict[str, list[Path]] = {}
    told: dict[str, tuple[str, str, str]] = {}
    for file, values in _images(folder):
        uid, number, modality = (values.get(tag, "") for tag in (SERIES_UID, SERIES_NUMBER, MODALITY))
        found.setdefault(uid, []).append(file)
        told.setdefault(uid, (number, uid, modality))
    listed = sorted((t for t in told.values() if t[2] not in _NO_SCANS), key=lambda t: (_integer(t[0]), t[1]))
    numbered = {str(n): (uid, modality) for n, (_, uid, modality) in enumerate(listed, 1)}
    names = ", ".join(f"{n} ({m or 'unknown modality'}, {len(found[uid])} files)" for n, (uid, m) in numbered.items())
    if not numbered:
        raise InputError(f"{folder}: no DICOM images in this folder")
    if chosen is None and len(numbered) > 1:
        raise InputError(f"{folder}: {len(numbered)} DICOM series: {names}; choose with --series, or keep one")
    uid = next(iter(numbered.values()))[0] if chosen is None else numbered.get(chosen, (chosen, ""))[0]
    if uid not in {uid for uid, _ in numbered.values()}:
        raise InputError(f"{folder}: no DICOM series {chosen} in this folder; there is {names}")
    return tuple(found[uid])


def _images(folder: Path) -> Iterator[tuple[Path, dict[int, str]]]:
    """Files that GDCM may read, and what they state; one that ought to be an image and is none is refused by name."""
    for file in sorted(file for file in folder.iterdir() if file.is_file()):
        try:
            header = read_header(file)
            if not header.has_pixels:
                raise InputError("no pixels")
        except InputError as error:
            if is_image(file):
                reason = "not a readable DICOM image, truncated or damaged"
                raise InputError(f"{file}: {reason} ({error}); copy or export it again, or take it out") from error
        else:
            yield file, header.values


def _integer(text: str) -> int:
    return int(text) if text.strip().lstrip("-").isdecimal() else 2**31


def _header(file: Path | str) -> Any:
    """SimpleITK's reader of ``file`` with its header read."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    reader.SetImageIO("GDCMImageIO")
    reader.ReadImageInformation()
    return reader


def _read_planes(file: Path) -> list[Plane]:
    try:
        with silence_stderr():
            header = _header(file)
        require_plausible_size(file, math.prod(header.GetSize()), header.GetNumberOfComponents(), MIN_PLAUSIBLE_NBYTES)
        if not (header.HasMetaDataKey(_FRAMES) and _integer(header.GetMetaData(_FRAMES)) > 1):
            return [Plane(file, geometry_from_itk(header), header.GetNumberOfComponents())]
    except (RuntimeError, InputError) as error:
        if is_out_of_memory(error):
            raise
        raise InputError(f"{file}: no usable DICOM geometry; take the file out of the folder") from error
    return _read_frames(file, header.GetNumberOfComponents())


def _read_frames(file: Path, components: int) -> list[Plane]:
    """Frames of a multi-frame file by their functional groups (PS3.3 C.7.6.16)."""
    from pydicom import dcmread

    try:
        image = dcmread(file, stop_before_pixels=True, force=True)
        shared = image.SharedFunctionalGroupsSequence[0]
        planes = [
            _frame(file, image, [frame, shared], number, components)
            for number, frame in enumerate(image.PerFrameFunctionalGroupsSequence)
        ]
        frames = int(image.NumberOfFrames)
    except Exception as error:  # pydicom has a kind of its own for each of many faults
        if is_out_of_memory(error):
            raise
        raise InputError(f"{file}: frames without a place each; export them as single files, or as NIfTI") from error
    if len(planes) != frames:
        raise InputError(f"{file}: {frames} frames, but places of {len(planes)}; export it again")
    if planes[0].rescale[0] == 0:  # ITK scales all frames by it
        raise InputError(f"{file}: the first frame's rescale slope is 0; export it again")
    return planes


def _frame(file: Path, image: Any, groups: list[Any], number: int, components: int) -> Plane:
    def of(sequence: str) -> Any:
        """The frame's own group, else the shared one; None where there is neither."""
        return next((group[sequence][0] for group in groups if group.get(sequence)), None)

    places = of("PlanePositionSequence"), of("PlaneOrientationSequence"), of("PixelMeasuresSequence")
    position, orientation, measures = places
    if any(place is None for place in places):
        raise ValueError("no place")
    cosines, sizes = (np.array(v, float) for v in (orientation.ImageOrientationPatient, measures.PixelSpacing))
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = cosines[:3] * sizes[1], cosines[3:] * sizes[0]
    affine[:3, 2] = np.cross(cosines[:3], cosines[3:]) * float(measures.get("SliceThickness") or 1)
    affine[:3, 3] = np.array(position.ImagePositionPatient, float)
    values = of("PixelValueTransformationSequence")
    rescale = (1.0, 0.0) if values is None else (float(values.RescaleSlope), float(values.RescaleIntercept))
    return Plane(file, Geometry.from_lps((image.Columns, image.Rows, 1), affine), components, number, rescale)


def stack(folder: Path | str, planes: tuple[Plane, ...]) -> Geometry:
    """Grid of slices that are in order.

    Raises:
        InputError: duplicate or missing slices, mixed sizes or planes, colour.
    """
    first = planes[0]
    if any(plane.components != 1 for plane in planes):
        raise InputError(f"{folder}: colour images; a grey-value series is needed")
    if len(planes) == 1:
        return first.geometry
    for plane in planes:
        _require_same_plane(first, plane)
    step = _even_step(folder, planes)
    affine = first.geometry.affine_lps
    affine[:3, 2] = step
    return Geometry.from_lps((*first.geometry.shape[:2], len(planes)), affine)


def _require_same_plane(first: Plane, plane: Plane) -> None:
    a, b = first.geometry, plane.geometry
    directions = np.abs(a.direction - b.direction).max() <= _PLANE_TOLERANCE
    pixels = np.allclose(a.spacing[:2], b.spacing[:2], rtol=_PLANE_TOLERANCE, atol=0)
    if a.shape != b.shape or a.shape[2] != 1 or not directions or not pixels:
        names = f"{first.file if first.frame is None else first.name} and {plane.name}"
        raise InputError(f"{names}: slices differ in size, pixel size or plane; take the odd one out")


def _even_step(folder: Path | str, planes: tuple[Plane, ...]) -> FloatArray:
    """Step (3,) from slice to slice in LPS mm."""
    positions = np.stack([plane.position for plane in planes])
    gaps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    step: FloatArray = (positions[-1] - positions[0]) / (len(planes) - 1)
    apart = gaps[gaps > gaps.max() / 1000]
    limit = SLICE_TOLERANCE * float(np.median(apart)) if len(apart) else 0.0
    twin = int(gaps.argmin())
    if gaps[twin] <= limit:
        names, doubled = f"{planes[twin].name} and {planes[twin + 1].name}", int((gaps <= limit).sum())
        many = f" (so do {doubled} pairs: several phases, echoes or exports in one series?)" if doubled > 1 else ""
        raise InputError(f"{folder}: {names} lie at the same position{many}; keep one of them")
    expected = positions[0] + np.arange(len(planes))[:, None] * step
    if np.linalg.norm(positions - expected, axis=1).max() > limit:
        widest = int(gaps.argmax())
        where = f"{gaps.min():.4g} to {gaps.max():.4g} mm apart, widest after {planes[widest].name}"
        raise InputError(f"{folder}: slices are {where}; a slice is missing or the spacing is uneven")
    return step
