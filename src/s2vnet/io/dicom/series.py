"""Selection of a DICOM series in a folder, sorting of its slices, and reading by SimpleITK's GDCM reader.

A series is a file per slice, or one multi-frame file (enhanced CT or MR). For all frames of the latter, ITK uses the
positions of the first two and the rescale slope of the first; here pydicom reads both for each frame.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from s2vnet.errors import InputError, NotFoundError, OutOfMemory
from s2vnet.io import itk, nifti
from s2vnet.io.dicom import zip_archive
from s2vnet.io.dicom.folders import is_dicom_file, walk_files
from s2vnet.io.dicom.slices import SeriesSlice, parse_integer, read_slices, stack_geometry
from s2vnet.io.dicom.validate import FRAMES, MODALITY, SERIES_NUMBER, SERIES_UID, is_image, read_header
from s2vnet.io.dicom.zip_archive import is_zip, open_series_folder
from s2vnet.io.geometry import Geometry, Volume
from s2vnet.io.itk import silence_stderr
from s2vnet.io.library_output import quiet_libraries
from s2vnet.io.native_paths import readable_paths
from s2vnet.utils.memory import is_out_of_memory

_OTHER_IMAGES = (*nifti.ENDINGS, *itk.ENDINGS, zip_archive.ENDING)
NON_IMAGE_MODALITIES = ("SEG", "RTSTRUCT", "RTDOSE", "RTPLAN", "SR", "PR", "KO", "DOC")
"""Modalities of series that accompany the images of a study."""


def is_series(path: Path) -> bool:
    """Whether a path is read as a DICOM series: a folder, a zip archive, or a multi-frame file."""
    return path.is_dir() or is_zip(path) or is_multiframe(path)


def is_multiframe(file: Path) -> bool:
    """Whether a file is a DICOM image of several frames; a damaged one is not."""
    if not is_dicom_file(file):
        return False
    try:
        header = read_header(file)
    except (InputError, OSError):
        return False
    return header.has_pixels and parse_integer(header.values.get(FRAMES, "1")) > 1


@quiet_libraries()
def series_slices(folder: Path | str, *, series: str | None = None) -> tuple[SeriesSlice, ...]:
    """Slices of the folder's series in the order of the volume (k).

    Args:
        folder: searched with its subfolders; files that are no DICOM images (reports, notes, SEG) are ignored. Or one
            file.
        series: SeriesInstanceUID, or the number of the series in the error about a folder with several.

    Raises:
        InputError: no such folder, no series or several in it, a truncated or damaged image, frames without positions.
    """
    files = _find_series_files(Path(folder), series)
    slices = [one for file in files for one in read_slices(file)]
    if len(files) > 1 and any(one.frame is not None for one in slices):
        raise InputError(f"{len(files)} files of a series, some with many frames; keep one of them", path=folder)
    normal = np.cross(*slices[0].geometry.affine_lps[:3, :2].T)
    return tuple(sorted(slices, key=lambda one: float(one.position @ normal)))


def series_files(folder: Path | str, *, series: str | None = None) -> tuple[Path, ...]:
    """Files of :func:`series_slices`, each once; arguments and errors as there."""
    return tuple(dict.fromkeys(one.file for one in series_slices(folder, series=series)))


def series_geometry(folder: Path | str, *, series: str | None = None) -> Geometry:
    """Grid of the volume of :func:`read_series` from the headers; arguments and errors as :func:`series_slices`."""
    return stack_geometry(folder, series_slices(folder, series=series))


@contextmanager
def select_series(path: Path | str, series: str | None) -> Iterator[Path]:
    """Yield a temporary folder with only one series of a DICOM folder or zip archive, or the path itself for None.

    Raises:
        InputError: neither folder nor archive, no such series, or as :func:`series_slices`.
    """
    path = Path(path)
    if series is None:
        yield path
        return
    if not (path.is_dir() or is_zip(path)):
        raise InputError("--series chooses from a DICOM folder or a .zip of one", path=path)
    with tempfile.TemporaryDirectory(prefix="s2vnet-") as name:
        target = Path(name) / f"{path.stem if is_zip(path) else path.name}-{series}"
        target.mkdir()
        with open_series_folder(path) as folder:
            for number, file in enumerate(series_files(folder, series=series)):
                shutil.copyfile(file, target / f"{number:05d}.dcm")
        try:
            yield target
        except InputError as error:
            raise error.relocated(target, path) from error


@quiet_libraries()
def read_series(folder: Path | str, *, series: str | None = None) -> Volume:
    """Read one series as a volume (1, I, J, K): i along rows, j along columns, k along the slices, in HU for CT.

    Args:
        folder: folder of the series, as for :func:`series_slices`.
        series: series to choose, as for :func:`series_slices`.

    Raises:
        InputError: as :func:`series_slices` and :func:`.slices.stack_geometry`, or damaged pixels.
    """
    import SimpleITK as sitk

    slices = series_slices(folder, series=series)
    geometry = stack_geometry(folder, slices)
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")  # stated, since ITK does not recognise files without a preamble
    # each file keeps its own slope and intercept (PET), so no integer type fits all
    reader.SetOutputPixelType(sitk.sitkFloat32)
    try:
        with readable_paths(list(dict.fromkeys(one.file for one in slices))) as names, silence_stderr():
            reader.SetFileNames(names)
            array: npt.NDArray[np.float32] = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise OutOfMemory("not enough memory for this series; crop it", path=folder) from error
        raise InputError("the series' pixels cannot be read; copy the files again", path=folder) from error
    if slices[0].frame is not None:
        array = _rescale_frames(array, slices)
    return Volume(array.transpose(2, 1, 0)[None], geometry, slices[0].modality)


def _rescale_frames(array: npt.NDArray[np.float32], slices: Sequence[SeriesSlice]) -> npt.NDArray[np.float32]:
    """Slices (K, J, I) with their own slope and intercept, of frames (1, K, J, I) scaled by those of the first."""
    slope, intercept = next(one.rescale for one in slices if one.frame == 0)
    array = array.reshape(-1, *array.shape[-2:])[[one.frame or 0 for one in slices]]
    for k, one in enumerate(slices):
        if one.rescale != (slope, intercept):
            array[k] = (array[k] - intercept) / slope * one.rescale[0] + one.rescale[1]
    return array


def _find_series_files(folder: Path, chosen: str | None) -> tuple[Path, ...]:
    """Files of the only series of a folder, or of the chosen one."""
    if not folder.exists():
        raise NotFoundError("no such folder", path=folder)
    files: dict[str, list[Path]] = {}
    attributes: dict[str, tuple[str, str, str]] = {}
    for file, values in image_headers(folder):
        uid, number, modality = (values.get(tag, "") for tag in (SERIES_UID, SERIES_NUMBER, MODALITY))
        files.setdefault(uid, []).append(file)
        attributes.setdefault(uid, (number, uid, modality))
    images = (each for each in attributes.values() if each[2] not in NON_IMAGE_MODALITIES)
    ordered = sorted(images, key=lambda each: (parse_integer(each[0]), each[1]))
    numbered = {str(n): (uid, modality) for n, (_, uid, modality) in enumerate(ordered, 1)}
    names = ", ".join(f"{n} ({m or 'unknown modality'}, {len(files[uid])} files)" for n, (uid, m) in numbered.items())
    if not numbered:
        raise InputError(_nothing_found(folder), path=folder)
    if chosen is None and len(numbered) > 1:
        raise InputError(
            f"{len(numbered)} DICOM series: {names}; choose with --series, or name the folder of one", path=folder
        )
    uid = next(iter(numbered.values()))[0] if chosen is None else numbered.get(chosen, (chosen, ""))[0]
    if uid not in {uid for uid, _ in numbered.values()}:
        raise InputError(f"no DICOM series {chosen} in this folder; there is {names}", path=folder)
    return tuple(files[uid])


def _nothing_found(folder: Path) -> str:
    """What a folder without DICOM images holds, and what to do."""
    others = [file for file in walk_files(folder) if file.name.lower().endswith(_OTHER_IMAGES)]
    if others:
        return f"no DICOM images in this folder, but {len(others)} other images in its subfolders; name one of those"
    return "no DICOM images in this folder or its subfolders; name the folder, .zip or file of a scan"


def image_headers(folder: Path) -> Iterator[tuple[Path, dict[int, str]]]:
    """Yield DICOM images and values of their headers. Raises InputError for a damaged image."""
    for file in walk_files(folder):
        try:
            header = read_header(file)
            if not header.has_pixels:
                raise InputError("no pixels")
        except OSError as error:
            raise InputError(f"{error.strerror or error}; the series may be incomplete", path=file) from error
        except InputError as error:
            if is_image(file):
                reason = "not a readable DICOM image, truncated or damaged"
                raise InputError(f"{reason} ({error}); copy or export it again, or take it out", path=file) from error
        else:
            yield file, header.values
