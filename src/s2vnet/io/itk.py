"""NRRD and MetaImage files by SimpleITK; its LPS grid as a Geometry, also for DICOM."""

from __future__ import annotations

import math
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from s2vnet.errors import InputError
from s2vnet.io.frames import Frames, require_plausible
from s2vnet.io.geometry import Float, Geometry
from s2vnet.utils.memory import is_out_of_memory

_IO_NAMES = {".nrrd": "NrrdImageIO", ".nhdr": "NrrdImageIO", ".mha": "MetaImageIO", ".mhd": "MetaImageIO"}
_DETACHED = (".nhdr", ".mhd")
ENDINGS = tuple(_IO_NAMES)

_LONGEST_HEADER = 1 << 20
_STDERR = 2
_stderr_lock = threading.RLock()


@contextmanager
def quiet() -> Iterator[None]:
    """Send file descriptor 2 to nowhere: MetaIO, teem and GDCM print there what their exceptions say anyway.

    The lock keeps two threads from restoring each other's descriptor.
    """
    with _stderr_lock, Path(os.devnull).open("wb") as nowhere:
        saved = os.dup(_STDERR)
        os.dup2(nowhere.fileno(), _STDERR)
        try:
            yield
        finally:
            os.dup2(saved, _STDERR)
            os.close(saved)


def geometry_of(source: Any) -> Geometry:
    """Grid of a 2D, 3D or 4D SimpleITK image, or of an ImageFileReader that knows its header; 2D is one 1 mm slice.

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


def place(image: Any, geometry: Geometry) -> None:
    """Give a 3D SimpleITK ``image`` the grid of ``geometry``."""
    affine = geometry.affine_lps
    direction: Float = affine[:3, :3] / np.array(geometry.spacing)
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection(direction.ravel().tolist())


def read(path: Path, ending: str, dtype: np.dtype[Any] | None) -> Frames:
    """Voxels as ``dtype`` where given. Vector components and the fourth dimension are frames.

    Raises:
        InputError: not of the ending's format, truncated, complex, or no usable grid.
    """
    import SimpleITK as sitk

    with _header(path, ending) as reader:
        geometry = geometry_of(reader)
        components = reader.GetNumberOfComponents()
        voxels = math.prod(reader.GetSize()) * components
        if ending not in _DETACHED:
            require_plausible(path, voxels)
        image = reader.Execute()
    stored = sitk.GetArrayViewFromImage(image)
    if stored.dtype.kind == "c":
        raise InputError("complex voxels; a grey-value volume is needed")
    data = np.array(stored, dtype).reshape((-1, *geometry.shape[::-1], components))  # (T, K, J, I, C)
    return Frames(data.transpose(0, 4, 3, 2, 1).reshape((-1, *geometry.shape)), geometry)


def read_geometry(path: Path, ending: str) -> Geometry:
    """Grid by the header alone. Raises InputError as :func:`read`."""
    with _header(path, ending) as reader:
        return geometry_of(reader)


def count_voxels(path: Path, ending: str) -> int:
    """Voxels of all frames, by the header alone. Raises InputError as :func:`read`."""
    with _header(path, ending) as reader:
        geometry_of(reader)
        return int(math.prod(reader.GetSize()) * reader.GetNumberOfComponents())


def stored_nbytes(path: Path, ending: str) -> int:
    """Memory in bytes of all voxels as stored, by the header alone. Raises InputError as :func:`read`."""
    import SimpleITK as sitk

    with _header(path, ending) as reader:
        one = sitk.Image([1] * reader.GetDimension(), reader.GetPixelID(), reader.GetNumberOfComponents())
        size = one.GetSizeOfPixelComponent() * reader.GetNumberOfComponents()
        return int(math.prod(reader.GetSize()) * size)


@contextmanager
def _header(path: Path, ending: str) -> Iterator[Any]:
    """A reader that has read the header; what ITK says of the file in one line."""
    import SimpleITK as sitk

    if ending not in _DETACHED:
        _require_own_data(path, ending)
    if _IO_NAMES[ending] == "MetaImageIO":
        _require_few_dimensions(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(_IO_NAMES[ending])
    try:
        with quiet():
            reader.ReadImageInformation()
            yield reader
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise MemoryError from error
        kind = _IO_NAMES[ending].removesuffix("ImageIO")
        raise InputError(f"not a readable {kind} image; it is truncated, damaged or of another format") from error


def _require_own_data(path: Path, ending: str) -> None:
    """Refuse a header that sends the reader to another file, which can be any that there is on the machine."""
    with path.open("rb") as file:
        head = file.read(_LONGEST_HEADER)
    if _IO_NAMES[ending] == "NrrdImageIO":
        end = re.search(rb"\r?\n\r?\n", head)
        elsewhere = re.search(rb"(?im)^\s*data\s*file\s*:", head[: end.start()] if end else head) is not None
    else:
        end = re.search(rb"(?im)^\s*elementdatafile\s*=\s*local\s*?$", head)
        # MetaIO's own reading of lines is lenient: only a header that cannot be taken for another is let through
        elsewhere = head.lower().count(b"elementdatafile") != (end is not None)
    if end is None and len(head) == _LONGEST_HEADER:
        raise InputError(f"a header of more than {_LONGEST_HEADER} bytes; save the image again")
    if elsewhere:
        raise InputError("its voxels lie in another file; save image and header as one, or name it .mhd or .nhdr")


def _require_few_dimensions(path: Path) -> None:
    """Refuse a number that MetaIO would count to, for hours."""
    with path.open("rb") as file:
        head = re.split(rb"(?i)elementdatafile", file.read(_LONGEST_HEADER))[0].lower()
    if head.count(b"ndims") != len(re.findall(rb"(?m)^\s*ndims\s*=\s*[1-9]\s*?$", head)):
        raise InputError("not a readable MetaImage: NDims is no number from 1 to 9; save the image again")


def write(path: Path, ending: str, data: npt.NDArray[Any], geometry: Geometry) -> None:
    """Write ``data`` (F, I, J, K) compressed; frames become vector components.

    Raises:
        OSError: whatever stopped SimpleITK, so that callers treat all formats alike.
    """
    import SimpleITK as sitk

    vector = len(data) > 1
    array = data.transpose(3, 2, 1, 0) if vector else data[0].transpose(2, 1, 0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array), isVector=vector)
    place(image, geometry)
    try:
        with quiet():
            sitk.WriteImage(image, str(path), useCompression=True, imageIO=_IO_NAMES[ending])
            if _IO_NAMES[ending] == "NrrdImageIO":  # the one writer that says nothing of a full disk
                sitk.ReadImage(str(path), imageIO=_IO_NAMES[ending])
    except RuntimeError as error:
        raise OSError(str(error).strip().splitlines()[-1]) from error
