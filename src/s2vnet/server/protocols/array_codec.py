"""Array serialization of nnInteractive's clients and servers (its `remote/serialization.py`, format version 1).

The format: ``NNIA``; version, codec, number of dimensions, length of the dtype's name (a byte each); the name; the
shape (int64); the number of chunks (uint32); per chunk its length, its compressed length (uint64) and the blosc2 frame.
All numbers are little endian.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import blosc2
import numpy as np
import numpy.typing as npt

from s2vnet.errors import InputError

MAGIC, VERSION = b"NNIA", 1
_CODECS = {1: blosc2.Codec.ZSTD, 2: blosc2.Codec.LZ4}
_KINDS = "biuf"
_CHUNK = 1 << 30
_HEADER, _COUNT, _LENGTHS = struct.Struct("<4sBBBB"), struct.Struct("<I"), struct.Struct("<QQ")


def pack(array: npt.NDArray[np.generic]) -> bytes:
    """Encode an array as a message."""
    array = np.ascontiguousarray(array)
    name, raw = array.dtype.name.encode(), array.reshape(-1).view(np.uint8)
    parts = [_HEADER.pack(MAGIC, VERSION, 1, array.ndim, len(name)), name, struct.pack(f"<{array.ndim}q", *array.shape)]
    starts = range(0, raw.nbytes, _CHUNK)
    parts.append(_COUNT.pack(len(starts)))
    for start in starts:
        piece = raw[start : start + _CHUNK].data
        # blosc2 cannot read its own frames of zeros when typesize is not the element's size
        packed = blosc2.compress2(piece, typesize=array.dtype.itemsize, codec=_CODECS[1], clevel=1)
        parts += [_LENGTHS.pack(len(piece), len(packed)), packed]
    return b"".join(parts)


def read_shape(message: bytes, dimensions: int, max_size: int) -> tuple[int, ...]:
    """Return the shape of a message's array without decompressing it. Raises InputError as :func:`unpack`."""
    with _input_errors():
        return _read_header(message, dimensions, max_size)[0]


def unpack(message: bytes, dimensions: int, max_size: int) -> npt.NDArray[np.generic]:
    """Decode a message; its header is checked before memory is allocated.

    Args:
        message: as from :func:`pack` or nnInteractive's client.
        dimensions: required number of dimensions.
        max_size: largest number of elements.

    Raises:
        InputError: not such a message, damaged, or too large.
    """
    with _input_errors():
        shape, dtype, at = _read_header(message, dimensions, max_size)
        (chunks,) = _COUNT.unpack_from(message, at)
        return _chunks(message, at + _COUNT.size, chunks, dtype, math.prod(shape)).reshape(shape)


@contextmanager
def _input_errors() -> Iterator[None]:
    """Translate errors of a damaged message into one line. Raises InputError."""
    try:
        yield
    except (struct.error, ValueError, TypeError, RuntimeError, MemoryError) as error:
        raise InputError(f"the array cannot be taken ({str(error).splitlines()[0]})") from error


def _read_header(message: bytes, dimensions: int, max_size: int) -> tuple[tuple[int, ...], np.dtype[np.generic], int]:
    """Return shape, dtype and the end of the header. Raises ValueError or struct.error."""
    magic, version, codec, ndim, length = _HEADER.unpack_from(message)
    if magic != MAGIC or version != VERSION or codec not in _CODECS:
        raise ValueError("of another format")
    at = _HEADER.size + length
    name = message[_HEADER.size : at].decode("ascii")
    if name not in np.sctypeDict:  # dtype() also accepts structured types and other expressions
        raise ValueError("voxels of no type")
    dtype = np.dtype(name)
    shape = struct.unpack_from(f"<{ndim}q", message, at)
    if ndim != dimensions or dtype.kind not in _KINDS or min(shape) < 1:
        raise ValueError(f"{ndim} dimensions of {dtype}, {shape}")
    if math.prod(shape) > max_size:
        raise ValueError(f"{math.prod(shape)} elements, more than the {max_size} that this server takes")
    return shape, dtype, at + 8 * ndim


def _chunks(message: bytes, at: int, count: int, dtype: np.dtype[np.generic], size: int) -> npt.NDArray[np.generic]:
    """Decompress the chunks at byte `at` into an array of `size` elements. Raises ValueError when they do not fit."""
    frames, nbytes = [], size * dtype.itemsize
    for _ in range(min(count, nbytes)):
        length, compressed = _LENGTHS.unpack_from(message, at)
        at += _LENGTHS.size
        frame = message[at : at + compressed]
        if length % dtype.itemsize or len(frame) != compressed or blosc2.get_cbuffer_sizes(frame)[0] != length:
            raise ValueError("a chunk is not what it says")
        frames.append((frame, length // dtype.itemsize))
        at += compressed
    if sum(length for _, length in frames) != size:
        raise ValueError("its chunks are not the whole")
    array, done = np.empty(size, dtype), 0
    for frame, length in frames:
        blosc2.decompress2(frame, dst=array[done : done + length])
        done += length
    return array
