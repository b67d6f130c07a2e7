"""Read and write volumes and label maps: NIfTI by nibabel, NRRD and MetaImage by SimpleITK, DICOM by :mod:`.dicom`.

All files are read to arrays here: in file axis order, with affines to the world in RAS+ mm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from s2vnet.errors import InputError, NotFoundError, OutOfMemory
from s2vnet.io import itk, nifti
from s2vnet.io.dicom.folders import is_dicom_file
from s2vnet.io.dicom.series import is_series, read_series, series_geometry
from s2vnet.io.dicom.zip_archive import open_series_folder
from s2vnet.io.geometry import Geometry, LabelMap, Volume
from s2vnet.io.lazy_image import LazyImage, as_lazy_image
from s2vnet.io.segment_names import Segment, names_of_fields, slicer_fields
from s2vnet.utils.atomic_write import atomic_write

ENDINGS = (*nifti.ENDINGS, *itk.ENDINGS)
"""File endings that are read and written."""
DETACHED_ENDINGS = itk.DETACHED_ENDINGS
"""Endings of headers whose voxels lie in a second file."""
SINGLE_FILE_ENDINGS = tuple(ending for ending in ENDINGS if ending not in DETACHED_ENDINGS)
"""Endings of images that are one file."""

INTEGER_TOLERANCE = 1e-3
"""Largest distance from an integer of labels stored as floats or scaled integers (float32 slopes round)."""


class _Format(Protocol):
    """Module that reads and writes a file format."""

    def read(self, path: Path, dtype: np.dtype[Any] | None) -> LazyImage: ...
    def read_unscaled(self, path: Path) -> LazyImage: ...
    def read_geometry(self, path: Path) -> Geometry: ...
    def count_voxels(self, path: Path) -> int: ...
    def max_read_nbytes(self, path: Path) -> int: ...
    def write(self, path: Path, data: npt.NDArray[Any], geometry: Geometry) -> None: ...


def find_ending(name: Path | str) -> str | None:
    """Return the ending of a file name that is in ``ENDINGS``, in lower case, or None."""
    lower = str(name).lower()
    return next((ending for ending in ENDINGS if lower.endswith(ending)), None)


def image_ending(path: Path | str) -> str:
    """Return the ending of a file name that is in ``ENDINGS``, in lower case.

    Raises:
        InputError: it has another ending.
    """
    ending = find_ending(Path(path))
    if ending is None:
        if is_dicom_file(Path(path)):
            raise InputError(f"a single DICOM file; name the folder of its series: {Path(path).parent}", path=path)
        hint = f"use one of {' '.join(ENDINGS)} or a folder or .zip with one DICOM series"
        raise InputError(f"unknown image format; {hint}", path=path)
    return ending


def read_image(
    paths: Path | str | Sequence[Path | str],
    *,
    fill_nonfinite: float | None = None,
    frames_as_channels: bool = False,
) -> Volume:
    """Read an image, of one file or DICOM series per channel, with slope and intercept applied.

    Args:
        paths: file, DICOM folder, multi-frame DICOM file or zip archive, or a sequence with one of them per
            channel; all on one grid.
        fill_nonfinite: value that replaces NaN and infinite voxels; None refuses them.
        frames_as_channels: accept a 4D file with all channels, as the Decathlon's; else a file must hold one frame.

    Returns:
        Volume (C, I, J, K) in the file's units (HU for CT).

    Raises:
        InputError: file missing, damaged or of another format; several frames; channels on different grids; NaN or
            infinity.
    """
    return read_lazy_image(paths, fill_nonfinite=fill_nonfinite, frames_as_channels=frames_as_channels).to_volume()


def read_lazy_image(
    paths: Path | str | Sequence[Path | str],
    *,
    fill_nonfinite: float | None = None,
    frames_as_channels: bool = False,
) -> LazyImage:
    """Read an image as :func:`read_image` does, but in the data type of its files; DICOM series are float32."""
    if fill_nonfinite is not None and not np.isfinite(fill_nonfinite):
        raise InputError(f"--fill-nan must be a finite number, not {fill_nonfinite}")
    names = [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]
    if not names:
        raise InputError("no image file given")
    parts = [_read_channels(name, fill_nonfinite, frames_as_channels) for name in names]
    for name, part in zip(names, parts, strict=True):
        parts[0].geometry.require_same_grid(part.geometry, f"{names[0]} and {name}")
    notes = tuple(dict.fromkeys(text for part in parts for text in part.geometry.notes))
    geometry = replace(parts[0].geometry, notes=notes)
    return replace(parts[0], channels=tuple(channel for part in parts for channel in part.channels), geometry=geometry)


def read_geometry(path: Path | str) -> Geometry:
    """Read the grid of a file, DICOM folder or zip archive from its headers; an archive is unpacked.

    Raises:
        InputError: file missing or of another format, or a header without a usable grid.
    """
    path = Path(path)
    if is_series(path):
        with open_series_folder(path) as folder:
            return series_geometry(folder)
    with _open_format(path) as file_format:
        return file_format.read_geometry(path)


def count_voxels(path: Path | str) -> int:
    """Count the voxels of all frames and channels from the headers, as :func:`read_geometry`."""
    path = Path(path)
    if is_series(path):
        return math.prod(read_geometry(path).shape)
    with _open_format(path) as file_format:
        return file_format.count_voxels(path)


def max_read_nbytes(path: Path | str) -> int:
    """Peak memory in bytes of :func:`read_lazy_image` for one file, from the headers, as :func:`read_geometry`."""
    path = Path(path)
    if is_series(path):
        return 2 * np.dtype(np.float32).itemsize * count_voxels(path)
    with _open_format(path) as file_format:
        return file_format.max_read_nbytes(path)


def is_portable_nifti(path: Path) -> bool:
    """Whether every NIfTI reader interprets the file as :func:`read_image` does, see :func:`.nifti.is_portable`."""
    return path.is_file() and path.name.lower().endswith(nifti.ENDINGS) and nifti.is_portable(path)


def read_labels(path: Path | str) -> LabelMap:
    """Read a label map (I, J, K); floating-point files of integer values are accepted.

    Raises:
        InputError: file missing, damaged or of another format; several frames; values that are not integers in
            0..65535.
    """
    path = Path(path)
    image = _read(path, None)
    _require_one_frame(path, image)
    data = image.channels[0].stored
    try:
        return LabelMap(round_labels(data) if data.dtype.kind == "f" else data, image.geometry)
    except InputError as error:
        raise error.about(path) from error.__cause__


def write_labels(path: Path | str, labels: LabelMap, segments: Sequence[Segment] = ()) -> None:
    """Write labels in the format of the path's ending, without slope and intercept, on their grid.

    The write is atomic: on failure the old file stays and no partial file remains.

    Args:
        path: file to write.
        labels: label map.
        segments: names and colours of its classes, which NRRD states as 3D Slicer does; other formats have no place.

    Raises:
        InputError: unknown ending, or the folder is missing or read-only, or the disk full.
    """
    path = Path(path)
    if not segments or image_ending(path) not in (".nrrd", ".nhdr"):
        return _write(path, labels.data[None], labels.geometry)
    with atomic_write(path) as temporary:
        itk.write(temporary, labels.data[None], labels.geometry, slicer_fields(segments, labels.geometry.shape))


def read_label_names(path: Path) -> dict[int, str]:
    """Return the class names by label value that a NRRD file states as 3D Slicer does; none for other formats.

    Raises:
        InputError: file damaged.
    """
    return names_of_fields(itk.read_fields(path)) if image_ending(path) in (".nrrd", ".nhdr") else {}


def write_image(path: Path | str, volume: Volume) -> None:
    """Write a float32 image (probabilities, uncertainty), channels as frames; else as :func:`write_labels`."""
    _write(Path(path), volume.data, volume.geometry)


def split_frames(path: Path | str, targets: Sequence[Path]) -> None:
    """Write each frame of a 4D image as a separate float32 image, with unchanged grid and values, including NaN.

    Raises:
        InputError: file missing or damaged, another number of frames, or as :func:`write_labels`.
    """
    image = _read(Path(path), np.dtype(np.float32))
    count = len(image.channels)
    if count != len(targets):
        raise InputError(f"{count} frames where {len(targets)} channels are named; correct either", path=path)
    for target, frame in zip(targets, image.channels, strict=True):
        _write(target, frame.stored[None], image.geometry)


def _read_channels(path: Path, fill: float | None, frames_as_channels: bool) -> LazyImage:
    if is_series(path):
        with open_series_folder(path) as folder:
            image = as_lazy_image(read_series(folder))
    else:
        with _open_format(path) as file_format:
            image = file_format.read_unscaled(path)
        if not frames_as_channels:
            _require_one_frame(path, image)
    try:
        return image.require_finite(fill)
    except InputError as error:
        raise error.about(path) from error.__cause__


def _require_one_frame(path: Path, image: LazyImage) -> None:
    count = len(image.channels)
    if count != 1:
        raise InputError(f"{count} frames where one 3D image is needed; save one file per channel or frame", path=path)


def round_labels(data: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Convert floating-point labels to integers.

    Raises:
        InputError: NaN, infinity, values that are not integers within ``INTEGER_TOLERANCE``, or far outside 0..65535.
    """
    nonfinite = int(np.count_nonzero(~np.isfinite(data)))
    if nonfinite:
        raise InputError(f"{nonfinite} label voxels are NaN or infinite; save the labels as integers")
    rounded = np.rint(data)
    off = np.abs(data - rounded) > INTEGER_TOLERANCE
    if off.any():
        voxel = tuple(int(v) for v in np.argwhere(off)[0])
        raise InputError(f"label {data[voxel]:.4g} at voxel {voxel} is not an integer; is this an image?")
    low, high = float(rounded.min()), float(rounded.max())
    if max(-low, high) > np.iinfo(np.int32).max:
        raise InputError(f"label values run from {low:.4g} to {high:.4g}; they must lie in 0..65535")
    integers: npt.NDArray[np.int64] = rounded.astype(np.int64)
    return integers


def _format_of(path: Path) -> _Format:
    return nifti if image_ending(path) in nifti.ENDINGS else itk


def _read(path: Path, dtype: np.dtype[Any] | None) -> LazyImage:
    # values beyond float32's range become infinite, which the caller checks
    with _open_format(path) as file_format, np.errstate(over="ignore"):
        return file_format.read(path, dtype)


@contextmanager
def _open_format(path: Path) -> Iterator[_Format]:
    """Yield the format of an existing file; errors in the block are prefixed with the file's path."""
    file_format = _format_of(path)
    if not path.is_file():
        raise NotFoundError("no such file", path=path)
    try:
        yield file_format
    except InputError as error:
        raise error.about(path) from error.__cause__
    except MemoryError as error:
        raise OutOfMemory("not enough memory for this image; crop it", path=path) from error


def _write(path: Path, data: npt.NDArray[Any], geometry: Geometry) -> None:
    file_format = _format_of(path)
    with atomic_write(path) as temporary:
        file_format.write(temporary, data, geometry)
