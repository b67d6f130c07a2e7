"""NIfTI-1 and NIfTI-2 files by nibabel."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from s2vnet.errors import InputError
from s2vnet.io.geometry import Geometry
from s2vnet.io.header_checks import require_plausible_size
from s2vnet.io.lazy_image import Channel, LazyImage, Scale, as_float32
from s2vnet.io.library_output import quiet_libraries
from s2vnet.io.nifti_forms import NiftiForms, agreeing_forms, choose_affine

try:  # inflates twice as fast as zlib
    from isal import isal_zlib
    from isal.igzip import IGzipFile as _GzipFile

    _INFLATE_ERRORS: tuple[Any, ...] = (zlib.error, isal_zlib.error)
except ImportError:  # no wheel for this platform
    from gzip import GzipFile as _GzipFile

    _INFLATE_ERRORS = (zlib.error,)

ENDINGS = (".nii.gz", ".nii")

_CHUNK_NBYTES = 1 << 24
_GZIP = b"\x1f\x8b"
"""First bytes of a gzipped file (RFC 1952, 2.3.1), whatever its name."""
_FIXABLE = 45
"""nibabel's level of header faults that are not corrected: a file of another format."""
_PORTABLE_DTYPES = (np.uint8, np.int16)
_NIFTI1_MAX_SIDE = np.iinfo(np.int16).max


def read(path: Path, dtype: np.dtype[Any] | None) -> LazyImage:
    """Read voxels with slope and intercept applied, as `dtype` where given; frames become channels, 2D is one slice.

    Raises:
        InputError: not NIfTI, truncated (by gzip's checksum too), colour or complex, no usable grid.
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
        if not isinstance(stream, gzip.GzipFile):
            return False
        image, geometry = _read_header(stream)
        header, forms = image.header, geometry.nifti_forms
        affines = None if forms is None else agreeing_forms(forms, geometry.shape)
        grids = [Geometry(geometry.shape, affine) for affine in affines or ()]
        simple = header["sizeof_hdr"] == 348 and len(image.shape) == 3 and not image.has_extensions
        portable_dtype = header.get_data_dtype().newbyteorder("=") in _PORTABLE_DTYPES
        return bool(simple and portable_dtype and grids and all(map(geometry.same_grid, grids)))


def write(path: Path, data: npt.NDArray[Any], geometry: Geometry) -> None:
    """Write `data` (F, I, J, K), as NIfTI-2 only where an axis is too long for NIfTI-1."""
    make_image(data, geometry).to_filename(path)


def map_voxels(path: Path) -> tuple[npt.NDArray[np.generic], Geometry]:
    """Map the voxels (F, I, J, K) of an uncompressed file that :func:`write` wrote, and read its grid."""
    import nibabel as nib

    image: Any = nib.load(path)
    voxels = np.asanyarray(image.dataobj)
    i, j, k = (*image.shape, 1)[:3]
    return np.moveaxis(voxels.reshape((i, j, k, -1), order="A"), -1, 0), Geometry((i, j, k), image.affine)


def replace_geometry(path: Path, geometry: Geometry) -> None:
    """Overwrite the grid in the header of an uncompressed file that :func:`write` wrote; the voxels stay."""
    import nibabel as nib

    image: Any = nib.load(path)
    header = image.header
    header.set_data_offset(image.dataobj.offset)  # nibabel forgets it when it reads a header
    header.set_qform(geometry.affine, int(header["qform_code"]))
    header.set_sform(geometry.affine, int(header["sform_code"]) or 1)
    with path.open("r+b") as file:
        file.write(header.binaryblock)


def to_bytes(data: npt.NDArray[Any], geometry: Geometry) -> bytes:
    """Encode `data` (F, I, J, K) as ``.nii.gz`` for a viewer: compressed fast, its grid stated once and in mm."""
    return gzip.compress(make_image(data, replace(geometry, nifti_forms=None)).to_bytes(), compresslevel=1)


class _ChunkedGzipFile(_GzipFile):  # type: ignore[misc]
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
        data, scale = load(image.voxels(stream))
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
    from nibabel.spatialimages import HeaderDataError, HeaderTypeError
    from nibabel.wrapstruct import WrapStructError

    damaged = (OSError, EOFError, KeyError, ValueError, OverflowError, *_INFLATE_ERRORS)
    refused = (ImageFileError, HeaderDataError, HeaderTypeError, WrapStructError)
    with path.open("rb") as file:
        try:
            with quiet_libraries():
                yield cast(IO[bytes], _ChunkedGzipFile(fileobj=file)) if file.peek(2)[:2] == _GZIP else file
        except InputError:
            raise
        except (*damaged, *refused) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"not a readable NIfTI image, truncated or damaged ({reason})") from error


class _Header(NamedTuple):
    """Header of an image, and where its voxels are."""

    header: Any
    """nibabel's header; faults of the file are corrected in it."""
    has_extensions: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.header.get_data_shape())

    def voxels(self, stream: IO[bytes]) -> Any:
        """nibabel's proxy of the voxels in the file that the header was read from."""
        from nibabel.arrayproxy import ArrayProxy

        return ArrayProxy(stream, self.header, mmap=False)


def _read_header(stream: IO[bytes]) -> tuple[_Header, Geometry]:
    """Header of an opened image, and its grid. Extensions, in which there may be a DICOM header, are not read."""
    from nibabel.imageglobals import logger
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    size = stream.read(4)
    stream.seek(0)
    sizes = (int.from_bytes(size, "little"), int.from_bytes(size, "big"))
    kind: Any = Nifti2Header if 540 in sizes else Nifti1Header
    header = kind(stream.read(kind.template_dtype.itemsize), check=False)
    forms = NiftiForms.from_header(header)  # before nibabel corrects them
    header.check_fix(logger, _FIXABLE)
    image = _Header(header, stream.read(1) not in (b"", b"\0"))
    shape, stored = image.shape, header.get_data_dtype()
    if len(shape) < 2 or stored.kind not in "iufb":
        raise InputError(f"shape {shape} of {stored} voxels; a grey-value volume is needed")
    i, j, k = (*shape, 1)[:3]
    with np.errstate(all="ignore"):
        chosen = choose_affine(forms, (i, j, k))
    return image, Geometry((i, j, k), chosen.affine, forms, chosen.notes)


def read_image(image: Any) -> tuple[npt.NDArray[Any], Geometry]:
    """Voxels (C, I, J, K) of a nibabel image, with slope and intercept applied, and its grid, as of a file.

    Raises:
        InputError: colour or complex, no usable grid, or the image's file is damaged.
    """
    import nibabel as nib

    if image.affine is None:
        raise InputError("a nibabel image without an affine")
    i, j, k = shape = (*image.shape, 1)[:3]
    if isinstance(image, nib.Nifti1Pair):
        forms = NiftiForms.from_header(image.header)
        chosen = choose_affine(forms, shape)
        geometry = Geometry(shape, chosen.affine, forms, chosen.notes)
    else:
        geometry = Geometry(shape, image.affine)
    try:
        data = np.asarray(image.dataobj)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"the file of the nibabel image cannot be read ({' '.join(str(error).split())})") from error
    return np.moveaxis(data.reshape((i, j, k, -1)), -1, 0), geometry


def make_image(data: npt.NDArray[Any], geometry: Geometry) -> Any:
    """Return a nibabel image of `data` (F, I, J, K), as NIfTI-2 only where an axis is too long for NIfTI-1."""
    import nibabel as nib

    frames = data[0] if len(data) == 1 else np.moveaxis(data, 0, -1)
    kind: Any = nib.Nifti1Image if max(frames.shape) <= _NIFTI1_MAX_SIDE else nib.Nifti2Image
    forms = _forms_to_write(geometry)
    # a new image has no slope and intercept, even if the input had them; without an affine, nibabel keeps the forms
    image = kind(frames, None)
    image.header.set_xyzt_units("mm")
    forms.write_to(image.header)
    return image


def _forms_to_write(geometry: Geometry) -> NiftiForms:
    """Forms that were read, where they state the grid; else an sform, and a qform where a quaternion can state it."""
    import nibabel as nib

    if geometry.nifti_forms is not None:
        with np.errstate(all="ignore"):
            affine = choose_affine(geometry.nifti_forms, geometry.shape).affine
        if np.array_equal(affine, geometry.affine):
            return geometry.nifti_forms
    header = nib.Nifti2Header()
    header.set_qform(geometry.affine, 1)
    header.set_sform(geometry.affine, 1)
    header["pixdim"][1:4] = geometry.spacing
    if not geometry.same_grid(Geometry(geometry.shape, header.get_qform())):
        header["qform_code"] = 0  # a quaternion cannot represent shear
    return NiftiForms.from_header(header)
