"""One DICOM series in a folder, read by SimpleITK's GDCM reader (pixels, rescale slope), its grid by positions."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from s2vnet.types import InputError
from s2vnet.volume.geometry import Float, Geometry, Volume
from s2vnet.volume.itk import geometry_of, quiet

SLICE_TOLERANCE = 0.05
"""How far, in slice distances, a slice may lie from its place in an even stack (positions are rounded text)."""

_PLANE_TOLERANCE = 1e-3
"""Largest difference of direction cosines, and relative difference of pixel sizes, between slices of one series."""

_MODALITY = "0008|0060"


class _Slice(NamedTuple):
    file: Path
    geometry: Geometry
    """Grid of this file alone."""
    components: int

    @property
    def position(self) -> Float:
        """Centre (3,) of the first pixel, LPS mm."""
        return self.geometry.affine_lps[:3, 3]


def series_files(folder: Path | str, *, series_uid: str | None = None) -> tuple[Path, ...]:
    """Files of the folder's series, in the order of the volume's slices (k); the source for DICOM SEG later.

    Args:
        folder: searched without its subfolders; what is no DICOM image (reports, notes) is passed over.
        series_uid: SeriesInstanceUID; needed when the folder holds several series of images.

    Raises:
        InputError: no such folder, no series or several in it, a truncated or damaged image.
    """
    return tuple(part.file for part in _sorted_slices(Path(folder), series_uid))


def series_geometry(folder: Path | str, *, series_uid: str | None = None) -> Geometry:
    """Grid of the volume that :func:`read_series` gives, from the headers alone. Arguments and errors as there."""
    return _stack(Path(folder), _sorted_slices(Path(folder), series_uid))


def read_series(folder: Path | str, *, series_uid: str | None = None) -> Volume:
    """Read one series as a volume (1, I, J, K): i along rows, j along columns, k along the slices, in HU for CT.

    The step between slices is that of their positions, so a tilted gantry gives a sheared affine. One multi-frame
    file is read on the grid that it states. Arguments as in :func:`series_files`.

    Raises:
        InputError: as :func:`series_files`; duplicate or missing slices, mixed sizes or planes, colour, damaged pixels.
    """
    import SimpleITK as sitk

    folder = Path(folder)
    slices = _sorted_slices(folder, series_uid)
    geometry = _stack(folder, slices)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(part.file) for part in slices])
    # each file keeps its own slope and intercept (PET), so no integer type fits all
    reader.SetOutputPixelType(sitk.sitkFloat32)
    try:
        with quiet():
            array: npt.NDArray[np.float32] = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise InputError(f"{folder}: the series' pixels cannot be read; copy the files again") from error
    return Volume(array.transpose(2, 1, 0)[None], geometry)


def _sorted_slices(folder: Path, series_uid: str | None) -> list[_Slice]:
    slices = [_read_slice(file) for file in _series(folder, series_uid)]
    normal = np.cross(*slices[0].geometry.affine_lps[:3, :2].T)
    return sorted(slices, key=lambda part: float(part.position @ normal))


def _series(folder: Path, series_uid: str | None) -> tuple[Path, ...]:
    import SimpleITK as sitk

    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    finder = sitk.ImageSeriesReader
    with quiet():
        found = {uid: finder.GetGDCMSeriesFileNames(str(folder), uid) for uid in finder.GetGDCMSeriesIDs(str(folder))}
    _require_whole(folder, {Path(file) for files in found.values() for file in files})
    if series_uid is not None:
        found = {uid: files for uid, files in found.items() if uid == series_uid}
    if not found:
        sought = "images" if series_uid is None else f"series {series_uid}"
        raise InputError(f"{folder}: no DICOM {sought} in this folder")
    if len(found) > 1:
        names = ", ".join(f"{uid} ({_modality(files[0])}, {len(files)} files)" for uid, files in found.items())
        raise InputError(f"{folder}: {len(found)} DICOM series ({names}); keep one per folder or pass series_uid")
    (files,) = found.values()
    return tuple(Path(file) for file in files)


def _require_whole(folder: Path, listed: set[Path]) -> None:
    """GDCM passes over what it cannot read: say so when that is an image, lest the volume end a slice early."""
    for file in sorted(folder.iterdir()):
        if file.is_file() and file not in listed and _is_image(file):
            raise InputError(f"{file}: not a readable DICOM image, truncated or damaged; copy it again or take it out")


def _is_image(file: Path) -> bool:
    """Whether the file says or its name promises that it is an image; a structure set or report does not."""
    from pydicom.filereader import read_file_meta_info

    with file.open("rb") as stream:
        if stream.read(132)[128:] != b"DICM":
            return file.suffix.lower() == ".dcm"
    try:
        return "Image Storage" in read_file_meta_info(file).MediaStorageSOPClassUID.name
    except (AttributeError, EOFError, ValueError):
        return True


def _header(file: Path | str) -> Any:
    """SimpleITK's reader of ``file`` with its header read."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    reader.SetImageIO("GDCMImageIO")
    reader.ReadImageInformation()
    return reader


def _modality(file: str) -> str:
    header = _header(file)
    return str(header.GetMetaData(_MODALITY)) if header.HasMetaDataKey(_MODALITY) else "unknown modality"


def _read_slice(file: Path) -> _Slice:
    try:
        with quiet():
            header = _header(file)
        return _Slice(file, geometry_of(header), header.GetNumberOfComponents())
    except (RuntimeError, InputError) as error:
        raise InputError(f"{file}: no usable DICOM geometry; take the file out of the folder") from error


def _stack(folder: Path, slices: list[_Slice]) -> Geometry:
    first = slices[0]
    if any(part.components != 1 for part in slices):
        raise InputError(f"{folder}: colour images; a grey-value series is needed")
    if len(slices) == 1:
        return first.geometry
    for part in slices:
        _require_same_plane(first, part)
    step = _even_step(folder, slices)
    affine = first.geometry.affine_lps
    affine[:3, 2] = step
    return Geometry.from_lps((*first.geometry.shape[:2], len(slices)), affine)


def _require_same_plane(first: _Slice, part: _Slice) -> None:
    a, b = first.geometry, part.geometry
    directions = np.abs(a.direction - b.direction).max() <= _PLANE_TOLERANCE
    pixels = np.allclose(a.spacing[:2], b.spacing[:2], rtol=_PLANE_TOLERANCE, atol=0)
    if a.shape != b.shape or a.shape[2] != 1 or not directions or not pixels:
        names = f"{first.file} and {part.file.name}"
        raise InputError(f"{names}: slices differ in size, pixel size or plane; take the odd one out")


def _even_step(folder: Path, slices: list[_Slice]) -> Float:
    """Step (3,) from slice to slice in LPS mm."""
    positions = np.stack([part.position for part in slices])
    gaps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    step: Float = (positions[-1] - positions[0]) / (len(slices) - 1)
    limit = SLICE_TOLERANCE * float(np.median(gaps))
    twin = int(gaps.argmin())
    if gaps[twin] <= limit:
        names = f"{slices[twin].file.name} and {slices[twin + 1].file.name}"
        raise InputError(f"{folder}: {names} lie at the same position; keep one of them")
    expected = positions[0] + np.arange(len(slices))[:, None] * step
    if np.linalg.norm(positions - expected, axis=1).max() > limit:
        widest = int(gaps.argmax())
        where = f"{gaps.min():.4g} to {gaps.max():.4g} mm apart, widest after {slices[widest].file.name}"
        raise InputError(f"{folder}: slices are {where}; a slice is missing or the spacing is uneven")
    return step
