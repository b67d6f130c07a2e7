"""NRRD and MetaImage files by SimpleITK, and the conversion of its LPS grids, also for DICOM."""

from __future__ import annotations

import math
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from s2vnet.errors import InputError
from s2vnet.io.geometry import FloatArray, Geometry
from s2vnet.io.header_checks import require_plausible_size
from s2vnet.io.lazy_image import Channel, LazyImage
from s2vnet.io.native_paths import readable_paths, writable_path
from s2vnet.utils.memory import is_out_of_memory

_IO_NAMES = {".nrrd": "NrrdImageIO", ".nhdr": "NrrdImageIO", ".mha": "MetaImageIO", ".mhd": "MetaImageIO"}
DETACHED_ENDINGS = (".nhdr", ".mhd")
"""Headers whose voxels lie in a second file."""
ENDINGS = tuple(_IO_NAMES)

_MAX_HEADER_NBYTES = 1 << 20
_STDERR = 2
_stderr_lock = threading.RLock()


@contextmanager
def silence_stderr() -> Iterator[None]:
    """Redirect file descriptor 2 to /dev/null: MetaIO, teem and GDCM print there what their exceptions also say.

    A lock keeps two threads from restoring each other's descriptor.
    """
    with _stderr_lock, Path(os.devnull).open("wb") as null:
        saved = os.dup(_STDERR)
        os.dup2(null.fileno(), _STDERR)
        try:
            yield
        finally:
            os.dup2(saved, _STDERR)
            os.close(saved)


def geometry_from_itk(source: Any) -> Geometry:
    """Grid of a 2D, 3D or 4D SimpleITK image, or of an ImageFileReader that has read its header; 2D is one 1 mm slice.

    Raises:
        InputError: another number of dimensions, or no usable grid.
    """
    dimension = source.GetDimension()
    if dimension not in (2, 3, 4):
        raise InputError(f"{dimension} dimensions; a 3D image is needed")
    space = min(dimension, 3)
    size = [1, 1, 1]
    size[:space] = source.GetSize()[:space]
    affine = np.eye(4)
    direction = np.reshape(source.GetDirection(), (dimension, dimension))[:space, :space]
    affine[:space, :space] = direction * np.array(source.GetSpacing()[:space])
    affine[:space, 3] = source.GetOrigin()[:space]
    i, j, k = size
    return Geometry.from_lps((i, j, k), affine)


def set_geometry(image: Any, geometry: Geometry) -> None:
    """Set the grid of a 3D SimpleITK `image`."""
    affine = geometry.affine_lps
    direction: FloatArray = affine[:3, :3] / np.array(geometry.spacing)
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection(direction.ravel().tolist())


def read(path: Path, dtype: np.dtype[Any] | None) -> LazyImage:
    """Read voxels, as `dtype` where given. Vector components and the fourth dimension become channels.

    Raises:
        InputError: not of the ending's format, truncated, complex, or no usable grid.
    """
    with _open_reader(path) as reader:
        geometry = geometry_from_itk(reader)
        components = reader.GetNumberOfComponents()
        voxels = math.prod(reader.GetSize()) * components
        if _ending(path) not in DETACHED_ENDINGS:
            require_plausible_size(path, voxels)
        image = reader.Execute()
    return LazyImage(tuple(map(Channel, _copy_channels(image, geometry, dtype))), geometry)


def read_image(image: Any) -> tuple[npt.NDArray[Any], Geometry]:
    """Copy the voxels (C, I, J, K) of a SimpleITK image, as of :func:`read`, and its grid.

    Raises:
        InputError: complex voxels, or as :func:`geometry_from_itk`.
    """
    geometry = geometry_from_itk(image)
    return _copy_channels(image, geometry, None), geometry


def _copy_channels(image: Any, geometry: Geometry, dtype: np.dtype[Any] | None) -> npt.NDArray[Any]:
    import SimpleITK as sitk

    stored = sitk.GetArrayViewFromImage(image)
    if stored.dtype.kind == "c":
        raise InputError("complex voxels; a grey-value volume is needed")
    components = image.GetNumberOfComponentsPerPixel()
    data = np.array(stored, dtype).reshape((-1, *geometry.shape[::-1], components))  # (T, K, J, I, C)
    return data.transpose(0, 4, 3, 2, 1).reshape((-1, *geometry.shape))


def read_unscaled(path: Path) -> LazyImage:
    """Read voxels as stored; the formats have no slope and intercept. Raises InputError as :func:`read`."""
    return read(path, None)


def read_geometry(path: Path) -> Geometry:
    """Read the grid from the header. Raises InputError as :func:`read`."""
    with _open_reader(path) as reader:
        return geometry_from_itk(reader)


def count_voxels(path: Path) -> int:
    """Count the voxels of all frames from the header. Raises InputError as :func:`read`."""
    with _open_reader(path) as reader:
        geometry_from_itk(reader)
        return int(math.prod(reader.GetSize()) * reader.GetNumberOfComponents())


def max_read_nbytes(path: Path) -> int:
    """Peak memory in bytes of :func:`read_unscaled`, which copies once. Raises InputError as :func:`read`."""
    import SimpleITK as sitk

    with _open_reader(path) as reader:
        one = sitk.Image([1] * reader.GetDimension(), reader.GetPixelID(), reader.GetNumberOfComponents())
        voxel_nbytes = one.GetSizeOfPixelComponent() * reader.GetNumberOfComponents()
        return int(2 * math.prod(reader.GetSize()) * voxel_nbytes)


def _ending(path: Path) -> str:
    return next(ending for ending in ENDINGS if path.name.lower().endswith(ending))


@contextmanager
def _open_reader(path: Path) -> Iterator[Any]:
    """Yield a reader that has read the header; ITK's errors become InputErrors of one line."""
    import SimpleITK as sitk

    io_name = _IO_NAMES[_ending(path)]
    if _ending(path) not in DETACHED_ENDINGS:
        _require_embedded_data(path, io_name)
    if io_name == "MetaImageIO":
        _require_valid_ndims(path)
    reader = sitk.ImageFileReader()
    reader.SetImageIO(io_name)
    detached = _ending(path) in DETACHED_ENDINGS
    try:
        with readable_paths([path], _ending(path), siblings=detached) as (name,), silence_stderr():
            reader.SetFileName(name)
            reader.ReadImageInformation()
            yield reader
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise MemoryError from error
        kind = io_name.removesuffix("ImageIO")
        raise InputError(f"not a readable {kind} image; it is truncated, damaged or of another format") from error


def _require_embedded_data(path: Path, io_name: str) -> None:
    """Refuse a header that refers to another file, which may be any file of the machine."""
    with path.open("rb") as file:
        head = file.read(_MAX_HEADER_NBYTES)
    if io_name == "NrrdImageIO":
        end = re.search(rb"\r?\n\r?\n", head)
        elsewhere = re.search(rb"(?im)^\s*data\s*file\s*:", head[: end.start()] if end else head) is not None
    else:
        end = re.search(rb"(?im)^\s*elementdatafile\s*=\s*local\s*?$", head)
        # MetaIO parses lines leniently: only an unambiguous header is accepted
        elsewhere = head.lower().count(b"elementdatafile") != (end is not None)
    if end is None and len(head) == _MAX_HEADER_NBYTES:
        raise InputError(f"a header of more than {_MAX_HEADER_NBYTES} bytes; save the image again")
    if elsewhere:
        raise InputError("its voxels lie in another file; save image and header as one, or name it .mhd or .nhdr")


def _require_valid_ndims(path: Path) -> None:
    """Refuse a number of dimensions over which MetaIO would loop for hours."""
    with path.open("rb") as file:
        head = re.split(rb"(?i)elementdatafile", file.read(_MAX_HEADER_NBYTES))[0].lower()
    if head.count(b"ndims") != len(re.findall(rb"(?m)^\s*ndims\s*=\s*[1-9]\s*?$", head)):
        raise InputError("not a readable MetaImage: NDims is not a number from 1 to 9; save the image again")


def make_image(data: npt.NDArray[Any], geometry: Geometry) -> Any:
    """Return a 3D SimpleITK image of `data` (F, I, J, K); several frames become vector components."""
    import SimpleITK as sitk

    vector = len(data) > 1
    array = data.transpose(3, 2, 1, 0) if vector else data[0].transpose(2, 1, 0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array), isVector=vector)
    set_geometry(image, geometry)
    return image


def read_fields(path: Path) -> dict[str, str]:
    """Return the header fields of a file that are text."""
    with _open_reader(path) as reader:
        return {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()}


def write(path: Path, data: npt.NDArray[Any], geometry: Geometry, fields: Mapping[str, str] | None = None) -> None:
    """Write `data` (F, I, J, K) compressed, with more header fields; frames become vector components.

    Raises:
        OSError: SimpleITK failed; the same type of error as of the other formats.
    """
    import SimpleITK as sitk

    image = make_image(data, geometry)
    for key, value in (fields or {}).items():
        image.SetMetaData(key, value)
    io_name = _IO_NAMES[_ending(path)]
    try:
        with writable_path(path, _ending(path)) as name, silence_stderr():
            sitk.WriteImage(image, name, useCompression=True, imageIO=io_name)
            if io_name == "NrrdImageIO":  # the only writer that does not report a full disk
                sitk.ReadImage(name, imageIO=io_name)
    except RuntimeError as error:
        raise OSError(str(error).strip().splitlines()[-1]) from error
