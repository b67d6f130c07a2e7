"""NIfTI-1 and NIfTI-2 files by nibabel."""

from __future__ import annotations

import gzip
import logging
import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from s2vnet.errors import InputError
from s2vnet.io.frames import Frames, Scale, as_float32, require_plausible
from s2vnet.io.geometry import Geometry

ENDINGS = (".nii.gz", ".nii")

_FORM_TOLERANCE = 0.5
"""Voxels by which qform and sform may differ and still mean one world: a float32 quaternion near a half turn, as LPS
images have, is good to 1e-4 only, while forms that speak of two worlds differ by much more."""

_READ_AT_ONCE = 1 << 24
_SMALL = (np.uint8, np.int16)
_NIFTI1_MAX_SIDE = np.iinfo(np.int16).max


def read(path: Path, dtype: np.dtype[Any] | None) -> Frames:
    """Voxels with slope and intercept applied, as ``dtype`` where given; 2D files are one slice.

    Raises:
        InputError: not NIfTI, truncated (gzip's checksum too), colour or complex, sizes not in mm, no usable grid.
    """
    return _read(path, lambda proxy: (np.asarray(proxy, dtype), as_float32))


def read_stored(path: Path) -> Frames:
    """Voxels as the file holds them; their scale applies slope and intercept, and is to the bit what :func:`read` does.

    Raises:
        InputError: as :func:`read`.
    """
    return _read(path, lambda proxy: (proxy.get_unscaled(), _scale(proxy.slope, proxy.inter)))


def stored_nbytes(path: Path) -> int:
    """Memory in bytes that :func:`read_stored` takes, by the header alone. Raises InputError as :func:`read`."""
    with _opened(path) as stream:
        image = _image(stream)[0]
        return int(math.prod(image.shape) * image.header.get_data_dtype().itemsize)


def _read(path: Path, take: Callable[[Any], tuple[npt.NDArray[Any], Scale]]) -> Frames:
    with _opened(path) as stream:
        frames = _frames(path, stream, take)
        # nibabel stops at the last voxel; the checksum comes after it
        while isinstance(stream, gzip.GzipFile) and stream.read(1 << 20):
            pass
        return frames


def _scale(slope: float, inter: float) -> Scale:
    """nibabel's own scaling of voxels that are asked for as float32 (``ArrayProxy.__array__``), for parts of them."""
    from nibabel.volumeutils import apply_read_scaling

    factors = [np.asanyarray(factor) for factor in (slope, inter)]
    narrow = [f.astype(np.float32) if np.can_cast(f, np.float32) else f for f in factors]

    def scale(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        with np.errstate(over="ignore"):
            scaled = apply_read_scaling(values, *narrow)
            wide: npt.NDArray[Any] = scaled.astype(np.promote_types(scaled.dtype, np.float32), copy=False)
            return as_float32(wide)

    return scale


class _Unzipped(gzip.GzipFile):
    """A gzip file that fills a large buffer bit by bit; Python's own reads all of it into a second one first."""

    def readinto(self, buffer: Any) -> int:
        with memoryview(buffer).cast("B") as view:
            done = 0
            while done < len(view) and (part := self.read(min(_READ_AT_ONCE, len(view) - done))):
                view[done : done + len(part)] = part
                done += len(part)
        return done


def read_geometry(path: Path) -> Geometry:
    """Grid by the header alone. Raises InputError as :func:`read`."""
    with _opened(path) as stream:
        return _image(stream)[1]


def count_voxels(path: Path) -> int:
    """Voxels of all frames, by the header alone. Raises InputError as :func:`read`."""
    with _opened(path) as stream:
        return math.prod(_image(stream)[0].shape)


def is_plain(path: Path) -> bool:
    """Whether every reader finds in the file what :func:`read` does, and nothing beside it.

    That is a zipped NIfTI-1 file of 8 or 16 bit integers in three dimensions, with all its forms on one grid and
    without extensions. Raises InputError as :func:`read_geometry`.
    """
    if not path.name.lower().endswith(".gz"):
        return False
    with _opened(path) as stream:
        image, geometry = _image(stream)
        head = image.header
        forms = [(head["sform_code"], head.get_sform), (head["qform_code"], head.get_qform)]
        grids = [Geometry(geometry.shape, form()) for code, form in forms if code > 0]
        simple = head["sizeof_hdr"] == 348 and len(image.shape) == 3 and not head.extensions
        small = head.get_data_dtype().newbyteorder("=") in _SMALL
        return bool(simple and small and grids and all(map(geometry.same_grid, grids)))


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The file, unzipped; what nibabel says of it in one line."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.imageglobals import logger
    from nibabel.spatialimages import HeaderDataError, HeaderTypeError
    from nibabel.wrapstruct import WrapStructError

    damaged = (OSError, EOFError, KeyError, ValueError, OverflowError, zlib.error)
    refused = (ImageFileError, HeaderDataError, HeaderTypeError, WrapStructError)
    zipped = path.name.lower().endswith(".gz")
    # nibabel logs what it then raises; its own suppressor leaves Python's last resort, which prints to stderr
    logger.addFilter(_mute)
    try:
        with path.open("rb") as file:
            yield cast(IO[bytes], _Unzipped(fileobj=file)) if zipped else file
    except InputError:
        raise
    except (*damaged, *refused) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"not a readable NIfTI image, truncated or damaged ({reason})") from error
    finally:
        logger.removeFilter(_mute)


def _mute(record: logging.LogRecord) -> bool:
    return False


def _image(stream: IO[bytes]) -> tuple[Any, Geometry]:
    """nibabel's image, with nothing but its header read, and the grid that it names."""
    import nibabel as nib

    head = stream.read(4)
    stream.seek(0)
    sizes = (int.from_bytes(head, "little"), int.from_bytes(head, "big"))
    kind: Any = nib.Nifti2Image if 540 in sizes else nib.Nifti1Image
    image = kind.from_file_map(kind.make_file_map({"image": stream}), mmap=False)
    shape, stored = image.shape, image.header.get_data_dtype()
    if len(shape) < 2 or stored.kind not in "iufb":
        raise InputError(f"shape {shape} of {stored} voxels; a grey-value volume is needed")
    if image.header.get_xyzt_units()[0] in ("meter", "micron"):
        raise InputError(f"voxel sizes in {image.header.get_xyzt_units()[0]}s; convert them to mm")
    i, j, k = (*shape, 1)[:3]
    return image, Geometry((i, j, k), image.affine, _codes(image))


def _frames(path: Path, stream: IO[bytes], take: Callable[[Any], tuple[npt.NDArray[Any], Scale]]) -> Frames:
    image, geometry = _image(stream)
    (i, j, k), frames = geometry.shape, math.prod(image.shape[3:])
    require_plausible(path, i * j * k * frames, image.header.get_data_dtype().itemsize)
    data, scale = take(image.dataobj)
    return Frames(np.moveaxis(data.reshape((i, j, k, frames), order="F"), -1, 0), geometry, scale)


def _codes(image: Any) -> tuple[int, int]:
    qform, sform = int(image.header["qform_code"]), int(image.header["sform_code"])
    if qform > 0 and sform > 0:
        # a qform that speaks of another world than the sform cannot be told by one affine
        return (qform if _forms_agree(image) else 0), sform
    return qform, sform


def _forms_agree(image: Any) -> bool:
    i, j, k = (*image.shape, 1)[:3]
    geometry = Geometry((i, j, k), image.get_sform())
    distance = geometry.corner_distance(Geometry((i, j, k), image.get_qform()))
    return distance <= _FORM_TOLERANCE * min(geometry.spacing)


def write(path: Path, data: npt.NDArray[Any], geometry: Geometry) -> None:
    """Write ``data`` (F, I, J, K); NIfTI-2 only where an axis is too long for NIfTI-1."""
    _made(data, geometry).to_filename(path)


def to_bytes(data: npt.NDArray[Any], geometry: Geometry) -> bytes:
    """A ``.nii.gz`` of ``data`` (F, I, J, K), as :func:`write` would make it but packed in haste."""
    return gzip.compress(_made(data, geometry).to_bytes(), compresslevel=1)


def _made(data: npt.NDArray[Any], geometry: Geometry) -> Any:
    import nibabel as nib

    frames = data[0] if len(data) == 1 else np.moveaxis(data, 0, -1)
    kind: Any = nib.Nifti1Image if max(frames.shape) <= _NIFTI1_MAX_SIDE else nib.Nifti2Image
    # a new image has no slope and intercept, whatever the input had
    image = kind(frames, geometry.affine)
    image.header.set_xyzt_units("mm")
    qform, sform = geometry.nifti_codes
    image.set_qform(geometry.affine, qform)
    image.set_sform(geometry.affine, sform)
    if qform > 0 and not _forms_agree(image):
        image.set_qform(None, 0)  # a quaternion holds no shear
    if not geometry.same_grid(Geometry(geometry.shape, image.affine)):
        image.set_sform(geometry.affine, 1)  # the only form that holds any affine
    return image
