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
from s2vnet.io.geometry import Geometry
from s2vnet.io.header_checks import require_plausible_size
from s2vnet.io.lazy_image import Channel, LazyImage, Scale, as_float32

ENDINGS = (".nii.gz", ".nii")

_FORM_TOLERANCE = 0.5
"""Largest distance in voxels between qform and sform that describe the same world. A float32 quaternion near a half
turn, as LPS images have, is accurate to 1e-4 only; forms of different worlds differ by much more."""

_CHUNK_NBYTES = 1 << 24
_PORTABLE_DTYPES = (np.uint8, np.int16)
_NIFTI1_MAX_SIDE = np.iinfo(np.int16).max


def read(path: Path, dtype: np.dtype[Any] | None) -> LazyImage:
    """Read voxels with slope and intercept applied, as `dtype` where given; frames become channels, 2D is one slice.

    Raises:
        InputError: not NIfTI, truncated (by gzip's checksum too), colour or complex, sizes not in mm, no usable grid.
    """
    return _read(path, lambda proxy: (np.asarray(proxy, dtype), as_float32))


def read_unscaled(path: Path) -> LazyImage:
    """Read voxels as stored, with a scale that gives exactly what :func:`read` does.

    Raises:
        InputError: as :func:`read`.
    """
    return _read(path, lambda proxy: (proxy.get_unscaled(), _make_scale(proxy.slope, proxy.inter)))


def read_geometry(path: Path) -> Geometry:
    """Read the grid from the header. Raises InputError as :func:`read`."""
    with _open_nifti(path) as stream:
        return _read_header(stream)[1]


def count_voxels(path: Path) -> int:
    """Count the voxels of all frames from the header. Raises InputError as :func:`read`."""
    with _open_nifti(path) as stream:
        return math.prod(_read_header(stream)[0].shape)


def max_read_nbytes(path: Path) -> int:
    """Peak memory in bytes of :func:`read_unscaled`, from the header. Raises InputError as :func:`read`."""
    with _open_nifti(path) as stream:
        image = _read_header(stream)[0]
        return int(math.prod(image.shape) * image.header.get_data_dtype().itemsize)


def is_portable(path: Path) -> bool:
    """Whether every NIfTI reader interprets the file as :func:`read` does, and the file contains nothing else.

    True for gzipped NIfTI-1 files of 8 or 16 bit integers in three dimensions whose qform and sform agree, without
    header extensions.

    Raises:
        InputError: as :func:`read_geometry`.
    """
    if not path.name.lower().endswith(".gz"):
        return False
    with _open_nifti(path) as stream:
        image, geometry = _read_header(stream)
        header = image.header
        forms = [(header["sform_code"], header.get_sform), (header["qform_code"], header.get_qform)]
        grids = [Geometry(geometry.shape, form()) for code, form in forms if code > 0]
        simple = header["sizeof_hdr"] == 348 and len(image.shape) == 3 and not header.extensions
        portable_dtype = header.get_data_dtype().newbyteorder("=") in _PORTABLE_DTYPES
        return bool(simple and portable_dtype and grids and all(map(geometry.same_grid, grids)))


def write(path: Path, data: npt.NDArray[Any], geometry: Geometry) -> None:
    """Write `data` (F, I, J, K), as NIfTI-2 only where an axis is too long for NIfTI-1."""
    _make_nibabel_image(data, geometry).to_filename(path)


def to_bytes(data: npt.NDArray[Any], geometry: Geometry) -> bytes:
    """Encode `data` (F, I, J, K) as ``.nii.gz``; as :func:`write` but with the fastest compression."""
    return gzip.compress(_make_nibabel_image(data, geometry).to_bytes(), compresslevel=1)


class _ChunkedGzipFile(gzip.GzipFile):
    """Gzip file that fills a large buffer in chunks; Python's own first reads all of it into a second buffer."""

    def readinto(self, buffer: Any) -> int:
        with memoryview(buffer).cast("B") as view:
            done = 0
            while done < len(view) and (part := self.read(min(_CHUNK_NBYTES, len(view) - done))):
                view[done : done + len(part)] = part
                done += len(part)
        return done


def _read(path: Path, load: Callable[[Any], tuple[npt.NDArray[Any], Scale]]) -> LazyImage:
    with _open_nifti(path) as stream:
        image, geometry = _read_header(stream)
        (i, j, k), frames = geometry.shape, math.prod(image.shape[3:])
        require_plausible_size(path, i * j * k * frames, image.header.get_data_dtype().itemsize)
        data, scale = load(image.dataobj)
        # nibabel stops at the last voxel; the checksum comes after it
        while isinstance(stream, gzip.GzipFile) and stream.read(1 << 20):
            pass
    channels = np.moveaxis(data.reshape((i, j, k, frames), order="F"), -1, 0)
    return LazyImage(tuple(Channel(channel, scale) for channel in channels), geometry)


def _make_scale(slope: float, inter: float) -> Scale:
    """nibabel's own scaling to float32 (``ArrayProxy.__array__``), for parts of an array."""
    from nibabel.volumeutils import apply_read_scaling

    factors = [np.asanyarray(factor) for factor in (slope, inter)]
    narrow = [f.astype(np.float32) if np.can_cast(f, np.float32) else f for f in factors]

    def scale(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        with np.errstate(over="ignore"):
            scaled = apply_read_scaling(values, *narrow)
            wide: npt.NDArray[Any] = scaled.astype(np.promote_types(scaled.dtype, np.float32), copy=False)
            return as_float32(wide)

    return scale


@contextmanager
def _open_nifti(path: Path) -> Iterator[IO[bytes]]:
    """Open the file, decompressed; nibabel's errors become InputErrors of one line."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.imageglobals import logger
    from nibabel.spatialimages import HeaderDataError, HeaderTypeError
    from nibabel.wrapstruct import WrapStructError

    damaged = (OSError, EOFError, KeyError, ValueError, OverflowError, zlib.error)
    refused = (ImageFileError, HeaderDataError, HeaderTypeError, WrapStructError)
    gzipped = path.name.lower().endswith(".gz")
    # nibabel logs what it then raises; without its handlers, Python's handler of last resort prints to stderr
    logger.addFilter(_reject_record)
    try:
        with path.open("rb") as file:
            yield cast(IO[bytes], _ChunkedGzipFile(fileobj=file)) if gzipped else file
    except InputError:
        raise
    except (*damaged, *refused) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"not a readable NIfTI image, truncated or damaged ({reason})") from error
    finally:
        logger.removeFilter(_reject_record)


def _reject_record(record: logging.LogRecord) -> bool:
    return False


def _read_header(stream: IO[bytes]) -> tuple[Any, Geometry]:
    """nibabel's image, of which only the header is read, and its grid."""
    import nibabel as nib

    size = stream.read(4)
    stream.seek(0)
    sizes = (int.from_bytes(size, "little"), int.from_bytes(size, "big"))
    kind: Any = nib.Nifti2Image if 540 in sizes else nib.Nifti1Image
    image = kind.from_file_map(kind.make_file_map({"image": stream}), mmap=False)
    shape, stored = image.shape, image.header.get_data_dtype()
    if len(shape) < 2 or stored.kind not in "iufb":
        raise InputError(f"shape {shape} of {stored} voxels; a grey-value volume is needed")
    if image.header.get_xyzt_units()[0] in ("meter", "micron"):
        raise InputError(f"voxel sizes in {image.header.get_xyzt_units()[0]}s; convert them to mm")
    i, j, k = (*shape, 1)[:3]
    return image, Geometry((i, j, k), image.affine, _form_codes(image))


def _form_codes(image: Any) -> tuple[int, int]:
    qform, sform = int(image.header["qform_code"]), int(image.header["sform_code"])
    if qform > 0 and sform > 0:
        # one affine cannot represent a qform of another world than the sform
        return (qform if _forms_agree(image) else 0), sform
    return qform, sform


def _forms_agree(image: Any) -> bool:
    i, j, k = (*image.shape, 1)[:3]
    geometry = Geometry((i, j, k), image.get_sform())
    distance = geometry.corner_distance(Geometry((i, j, k), image.get_qform()))
    return distance <= _FORM_TOLERANCE * min(geometry.spacing)


def _make_nibabel_image(data: npt.NDArray[Any], geometry: Geometry) -> Any:
    import nibabel as nib

    frames = data[0] if len(data) == 1 else np.moveaxis(data, 0, -1)
    kind: Any = nib.Nifti1Image if max(frames.shape) <= _NIFTI1_MAX_SIDE else nib.Nifti2Image
    # a new image has no slope and intercept, even if the input had them
    image = kind(frames, geometry.affine)
    image.header.set_xyzt_units("mm")
    qform, sform = geometry.nifti_codes
    image.set_qform(geometry.affine, qform)
    image.set_sform(geometry.affine, sform)
    if qform > 0 and not _forms_agree(image):
        image.set_qform(None, 0)  # a quaternion cannot represent shear
    if not geometry.same_grid(Geometry(geometry.shape, image.affine)):
        image.set_sform(geometry.affine, 1)  # the only form that represents any affine
    return image
