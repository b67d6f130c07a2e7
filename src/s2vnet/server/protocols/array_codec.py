"""Arrays as nnInteractive's clients and servers pack them (its `remote/serialization.py`, version 1 of the format).

``NNIA``, version, codec, dimensions, length of the dtype's name (a byte each), the name, the shape (int64), the number
of chunks (uint32), and per chunk its length, its packed length (uint64) and blosc2's frame. All little endian.
"""

from __future__ import annotations

import math
import struct

import blosc2
import numpy as np
import numpy.typing as npt

from s2vnet.errors import InputError

MAGIC, VERSION = b"NNIA", 1
_CODECS = {1: blosc2.Codec.ZSTD, 2: blosc2.Codec.LZ4}
_KINDS = "biuf"
_CHUNK = 1 << 30
_HEAD, _COUNT, _LENGTHS = struct.Struct("<4sBBBB"), struct.Struct("<I"), struct.Struct("<QQ")


def pack(array: npt.NDArray[np.generic]) -> bytes:
    """An array as a message."""
    array = np.ascontiguousarray(array)
    name, raw = array.dtype.name.encode(), array.reshape(-1).view(np.uint8)
    parts = [_HEAD.pack(MAGIC, VERSION, 1, array.ndim, len(name)), name, struct.pack(f"<{array.ndim}q", *array.shape)]
    starts = range(0, raw.nbytes, _CHUNK)
    parts.append(_COUNT.pack(len(starts)))
    for start in starts:
        piece = raw[start : start + _CHUNK].data
        # the element's size has to be told: with another one blosc2 writes frames of zeros that it cannot read
        packed = blosc2.compress2(piece, typesize=array.dtype.itemsize, codec=_CODECS[1], clevel=1)
        parts += [_LENGTHS.pack(len(piece), len(packed)), packed]
    return b"".join(parts)


def unpack(message: bytes, dimensions: int, most: int) -> npt.NDArray[np.generic]:
    """The array of a message; its header is checked before anything is allocated.

    Args:
        message: as :func:`pack` or nnInteractive's client makes it.
        dimensions: that the array has to have.
        most: elements that it may have.

    Raises:
        InputError: no such message, damaged, or larger.
    """
    try:
        magic, version, codec, ndim, length = _HEAD.unpack_from(message)
        if magic != MAGIC or version != VERSION or codec not in _CODECS:
            raise ValueError("of another format")
        at = _HEAD.size + length
        name = message[_HEAD.size : at].decode("ascii")
        if name not in np.sctypeDict:  # dtype() takes whole sentences
            raise ValueError("voxels of no type")
        dtype = np.dtype(name)
        shape = struct.unpack_from(f"<{ndim}q", message, at)
        at += 8 * ndim
        if ndim != dimensions or dtype.kind not in _KINDS or min(shape) < 1:
            raise ValueError(f"{ndim} dimensions of {dtype}, {shape}")
        if math.prod(shape) > most:
            raise ValueError(f"{math.prod(shape)} elements, more than the {most} that this server takes")
        (chunks,) = _COUNT.unpack_from(message, at)
        at += _COUNT.size
        return _chunks(message, at, chunks, dtype, math.prod(shape)).reshape(shape)
    except (struct.error, ValueError, TypeError, RuntimeError, MemoryError) as error:
        raise InputError(f"the array cannot be taken ({str(error).splitlines()[0]})") from error


def _chunks(message: bytes, at: int, count: int, dtype: np.dtype[np.generic], size: int) -> npt.NDArray[np.generic]:
    frames, due = [], size * dtype.itemsize
    for _ in range(min(count, due)):
        length, packed = _LENGTHS.unpack_from(message, at)
        at += _LENGTHS.size
        frame = message[at : at + packed]
        if length % dtype.itemsize or len(frame) != packed or blosc2.get_cbuffer_sizes(frame)[0] != length:
            raise ValueError("a chunk is not what it says")
        frames.append((frame, length // dtype.itemsize))
        at += packed
    if sum(length for _, length in frames) != size:
        raise ValueError("its chunks are not the whole")
    found, done = np.empty(size, dtype), 0
    for frame, length in frames:
        blosc2.decompress2(frame, dst=found[done : done + length])
        done += length
    return found
