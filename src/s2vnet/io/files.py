"""Files to volumes and back: NIfTI by nibabel, NRRD and MetaImage by SimpleITK, DICOM folders by :mod:`.dicom`.

This is the only place where files meet arrays; from here on the world is RAS+ mm and arrays are in file axis order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from s2vnet.errors import InputError, OutOfMemory
from s2vnet.io import itk, nifti
from s2vnet.io.dicom.series import read_series, series_geometry
from s2vnet.io.dicom.zip_archive import is_zip, series_folder
from s2vnet.io.frames import Frames
from s2vnet.io.geometry import Geometry, LabelMap, Volume
from s2vnet.io.lazy_image import LazyImage
from s2vnet.utils.atomic_write import atomic_write

ENDINGS = (*nifti.ENDINGS, *itk.ENDINGS)
"""File endings that are read and written."""

INTEGER_TOLERANCE = 1e-3
"""Labels stored as floats or scaled integers may be this far from an integer (float32 slopes round)."""


def image_ending(path: Path | str) -> str:
    """The file's ending, one of ``ENDINGS``, in lower case.

    Raises:
        InputError: another ending.
    """
    name = Path(path).name.lower()
    for ending in ENDINGS:
        if name.endswith(ending):
            return ending
    raise InputError(
        f"{path}: unknown image format; use one of {' '.join(ENDINGS)} or a folder or .zip with one DICOM series"
    )


def read_image(
    paths: Path | str | Sequence[Path | str],
    *,
    fill_nonfinite: float | None = None,
    frames_as_channels: bool = False,
) -> Volume:
    """Read one image: one file or DICOM series per channel, in order. Slope and intercept are applied.

    Args:
        paths: file, DICOM folder or zip archive, or a sequence with one of them per channel; all on one grid.
        fill_nonfinite: value that replaces NaN and infinite voxels; None refuses them.
        frames_as_channels: let one 4D file hold all channels (MSD's way). Else a 4D file may hold one frame only.

    Returns:
        Volume (C, I, J, K) in the file's units (HU for CT).

    Raises:
        InputError: missing, damaged or foreign file, several frames, channels on different grids, NaN or infinity.
    """
    return read_stored(paths, fill_nonfinite=fill_nonfinite, frames_as_channels=frames_as_channels).volume


def read_stored(
    paths: Path | str | Sequence[Path | str],
    *,
    fill_nonfinite: float | None = None,
    frames_as_channels: bool = False,
) -> LazyImage:
    """As :func:`read_image`, but with the voxels as the files hold them; DICOM series are float32."""
    if fill_nonfinite is not None and not np.isfinite(fill_nonfinite):
        raise InputError(f"--fill-nan must be a finite number, not {fill_nonfinite}")
    names = [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]
    if not names:
        raise InputError("no image file given")
    parts = [_read_channels(name, fill_nonfinite, frames_as_channels) for name in names]
    for name, part in zip(names, parts, strict=True):
        parts[0].geometry.require_same_grid(part.geometry, f"{names[0]} and {name}")
    return LazyImage(tuple(channel for part in parts for channel in part.channels), parts[0].geometry)


def read_geometry(path: Path | str) -> Geometry:
    """Grid of a file, DICOM folder or zip archive, by headers alone; an archive is unpacked for that.

    Raises:
        InputError: missing or foreign file, or a header that names no usable grid.
    """
    path = Path(path)
    if path.is_dir() or is_zip(path):
        with series_folder(path) as folder:
            return series_geometry(folder)
    with _reading(path) as ending:
        return nifti.read_geometry(path) if ending in nifti.ENDINGS else itk.read_geometry(path, ending)


def count_voxels(path: Path | str) -> int:
    """Voxels of all frames and channels of a file, DICOM folder or zip archive. By headers alone, as read_geometry."""
    path = Path(path)
    if path.is_dir() or is_zip(path):
        return math.prod(read_geometry(path).shape)
    with _reading(path) as ending:
        return nifti.count_voxels(path) if ending in nifti.ENDINGS else itk.count_voxels(path, ending)


def reading_nbytes(path: Path | str) -> int:
    """Memory in bytes that :func:`read_stored` takes at most, while it reads or after. By headers alone, likewise."""
    path = Path(path)
    if path.is_dir() or is_zip(path):
        return 2 * np.dtype(np.float32).itemsize * count_voxels(path)
    with _reading(path) as ending:
        return nifti.stored_nbytes(path) if ending in nifti.ENDINGS else 2 * itk.stored_nbytes(path, ending)


def is_plain(path: Path) -> bool:
    """Whether a file as it is says to every reader of NIfTI what :func:`read_image` says; see there."""
    return path.is_file() and path.name.lower().endswith(nifti.ENDINGS) and nifti.is_plain(path)


def read_labels(path: Path | str) -> LabelMap:
    """Read a label map (I, J, K); files of floats that hold integers are accepted.

    Raises:
        InputError: missing, damaged or foreign file, several frames, values that are no integers in 0..65535.
    """
    path = Path(path)
    frames = _read(path, None)
    _require_one_frame(path, frames)
    data: npt.NDArray[Any] = frames.data[0]
    try:
        return LabelMap(_integers(data) if data.dtype.kind == "f" else data, frames.geometry)
    except InputError as error:
        raise type(error)(f"{path}: {error}") from error


def write_labels(path: Path | str, labels: LabelMap) -> None:
    """Write labels in the format of the path's ending, without slope and intercept, on exactly their grid.

    The old file stays until the new one is whole; nothing else remains on failure.

    Raises:
        InputError: unknown ending, or the folder is missing, read-only or full.
    """
    _write(Path(path), labels.data[None], labels.geometry)


def write_image(path: Path | str, volume: Volume) -> None:
    """Write a float32 image (probabilities, uncertainty); several channels become frames. Else as write_labels."""
    _write(Path(path), volume.data, volume.geometry)


def split_frames(path: Path | str, targets: Sequence[Path]) -> None:
    """Write each frame of a 4D image as a float32 image of its own; values, NaN too, and grid stay as they are.

    Raises:
        InputError: missing or damaged file, another number of frames, or as write_labels.
    """
    frames = _read(Path(path), np.dtype(np.float32))
    if len(frames.data) != len(targets):
        raise InputError(f"{path}: {len(frames.data)} frames where {len(targets)} channels are named; correct either")
    for target, frame in zip(targets, frames.data, strict=True):
        _write(target, frame[None], frames.geometry)


def _read_channels(path: Path, fill: float | None, many: bool) -> LazyImage:
    if path.is_dir() or is_zip(path):
        with series_folder(path) as folder:
            stored = LazyImage.of(read_series(folder))
    else:
        with _reading(path) as ending:
            frames = nifti.read_stored(path) if ending in nifti.ENDINGS else itk.read(path, ending, None)
        if not many:
            _require_one_frame(path, frames)
        stored = LazyImage.of(frames)
    try:
        return stored.require_finite(fill)
    except InputError as error:
        raise type(error)(f"{path}: {error}") from error


def _require_one_frame(path: Path, frames: Frames) -> None:
    count = len(frames.data)
    if count != 1:
        raise InputError(f"{path}: {count} frames where one 3D image is needed; save one file per channel or frame")


def _integers(data: npt.NDArray[Any]) -> npt.NDArray[Any]:
    bad = int(np.count_nonzero(~np.isfinite(data)))
    if bad:
        raise InputError(f"{bad} label voxels are NaN or infinite; save the labels as integers")
    rounded = np.rint(data)
    off = np.abs(data - rounded) > INTEGER_TOLERANCE
    if off.any():
        voxel = tuple(int(v) for v in np.argwhere(off)[0])
        raise InputError(f"label {data[voxel]:.4g} at voxel {voxel} is no integer; is this an image, no label map?")
    integers: npt.NDArray[np.int64] = rounded.astype(np.int64)
    return integers


def _read(path: Path, dtype: np.dtype[Any] | None) -> Frames:
    # what float32 cannot hold becomes infinite and is counted as such by the caller
    with _reading(path) as ending, np.errstate(over="ignore"):
        return nifti.read(path, dtype) if ending in nifti.ENDINGS else itk.read(path, ending, dtype)


@contextmanager
def _reading(path: Path) -> Iterator[str]:
    """The ending of a file that is there; errors get its name."""
    ending = image_ending(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        yield ending
    except InputError as error:
        raise type(error)(f"{path}: {error}") from error
    except MemoryError as error:
        raise OutOfMemory(f"{path}: not enough memory for this image; crop it") from error


def _write(path: Path, data: npt.NDArray[Any], geometry: Geometry) -> None:
    ending = image_ending(path)
    with atomic_write(path) as temporary:
        if ending in nifti.ENDINGS:
            nifti.write(temporary, data, geometry)
        else:
            itk.write(temporary, ending, data, geometry)
