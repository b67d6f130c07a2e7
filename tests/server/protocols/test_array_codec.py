"""Arrays are serialized as by nnInteractive's package; damaged or too large ones are refused."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from s2vnet.errors import InputError
from s2vnet.server.protocols.array_codec import pack, read_shape, unpack

ARRAYS = [
    np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    np.random.default_rng(0).normal(0, 1, (5, 7, 3)).astype(np.float32),
    np.zeros((1, 1, 1), np.int16),
    np.zeros((97, 3, 11), np.float64),
    np.ones((2, 3, 4), bool)[:, ::2],
]


@pytest.mark.parametrize("array", ARRAYS)
def test_arrays_are_unpacked_as_they_were_packed(array: np.ndarray) -> None:
    found = unpack(pack(array), 3, array.size)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("array", ARRAYS)
def test_nninteractive_reads_and_writes_the_same_format(array: np.ndarray) -> None:
    theirs = pytest.importorskip("nnInteractive.inference.remote.serialization")
    np.testing.assert_array_equal(theirs.unpack_array(pack(array)), array)
    np.testing.assert_array_equal(unpack(theirs.pack_array(array), 3, array.size), array)


def test_arrays_over_the_limit_are_refused() -> None:
    with pytest.raises(InputError, match="24 elements, more than the 23"):
        unpack(pack(ARRAYS[0]), 3, 23)


@pytest.mark.parametrize("shape", [(2**40, 2**20, 2), (-1, 3, 4), (0, 3, 4), (2**62, 2**62, 2)])
def test_headers_of_invalid_shapes_are_refused(shape: tuple[int, ...]) -> None:
    message = bytearray(pack(ARRAYS[0]))
    message[13:37] = struct.pack("<3q", *shape)
    with pytest.raises(InputError, match="cannot be taken"):
        unpack(bytes(message), 3, 10**9)


def test_every_damaged_byte_is_refused_or_harmless() -> None:
    message = pack(ARRAYS[0])
    for n in range(len(message)):
        for value in (0, 255, message[n] ^ 1):
            damaged = bytearray(message)
            damaged[n] = value
            try:
                found = unpack(bytes(damaged), 3, 10**6)
            except InputError:
                continue
            assert found.ndim == 3


@pytest.mark.parametrize("length", [0, 3, 8, 12, 30, 40, 60])
def test_cut_messages_are_refused(length: int) -> None:
    with pytest.raises(InputError, match="cannot be taken"):
        unpack(pack(ARRAYS[0])[:length], 3, 10**6)


def test_other_numbers_of_dimensions_are_refused() -> None:
    with pytest.raises(InputError, match="3 dimensions of uint8"):
        unpack(pack(ARRAYS[0]), 4, 10**6)


def test_the_shape_is_read_without_decompressing() -> None:
    message = pack(np.zeros((1, 4, 5, 6), np.float32))
    assert read_shape(message, 4, 120) == (1, 4, 5, 6)
    assert read_shape(message[:-3], 4, 120) == (1, 4, 5, 6)
    for dimensions, most in ((3, 120), (4, 119)):
        with pytest.raises(InputError, match="cannot be taken"):
            read_shape(message, dimensions, most)
