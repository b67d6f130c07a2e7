"""Compressed frames are read by their headers alone, wherever in a file their parts lie."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from s2vnet.types import InputError
from s2vnet.volume.codestream import MOST_LAYERS, Frame, require_size

ROWS, COLUMNS = 48, 40


def packed(kind: str, **options: object) -> bytes:
    pixels = np.arange(ROWS * COLUMNS, dtype=np.uint16).reshape(ROWS, COLUMNS)
    with io.BytesIO() as file:
        Image.fromarray(pixels if kind == "JPEG2000" else pixels.astype(np.uint8)).save(file, kind, **options)
        return file.getvalue()


FRAMES = {
    "JPEG": packed("JPEG"),
    "progressive": packed("JPEG", progressive=True, icc_profile=bytes(70_000)),
    "JPEG 2000": packed("JPEG2000", no_jp2=True),
    "tiles": packed("JPEG2000", no_jp2=True, tile_size=(16, 16)),
    "a file": packed("JPEG2000", no_jp2=False),
}


def checked(data: bytes, rows: int = ROWS, columns: int = COLUMNS) -> None:
    require_size(Frame(io.BytesIO(data), [(0, len(data))]), rows, columns)


@given(st.binary(max_size=40), st.lists(st.integers(0, 9), max_size=8), st.integers(0, 50), st.integers(0, 50))
def test_parts_read_as_one(data: bytes, lengths: list[int], at: int, count: int) -> None:
    starts = [7 * number % max(len(data), 1) for number in range(len(lengths))]
    parts = [(start, min(length, len(data) - start)) for start, length in zip(starts, lengths, strict=True)]
    whole = b"".join(data[start : start + length] for start, length in parts)
    frame = Frame(io.BytesIO(data), parts)
    assert frame.size == len(whole)
    assert frame.read(at, count) == whole[at : at + count]


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_has_its_own_size_and_no_other(name: str) -> None:
    data = FRAMES[name]
    checked(data)
    pieces = [(start, min(100, len(data) - start)) for start in range(0, len(data), 100)]
    require_size(Frame(io.BytesIO(data), pieces), ROWS, COLUMNS)
    for rows, columns in ((COLUMNS, ROWS), (ROWS - 1, COLUMNS), (0, 0)):
        with pytest.raises(InputError, match=f"pixels of {ROWS} rows and {COLUMNS} columns in an image of {rows}"):
            checked(data, rows, columns)
    for keep in (0, 3, 30):
        with pytest.raises(InputError, match="compressed pixels"):
            checked(data[:keep])


def test_every_header_of_a_tile_counts() -> None:
    data = FRAMES["tiles"]
    last = data.rindex(b"\xff\x90\0\x0a")
    for layers, fits in ((MOST_LAYERS, True), (MOST_LAYERS + 1, False)):
        coding = struct.pack(">HHBBHBBBBBB", 0xFF52, 12, 0, 0, layers, 0, 5, 4, 4, 0, 1)
        size = int.from_bytes(data[last + 6 : last + 10], "big") + len(coding)
        made = data[: last + 6] + struct.pack(">L", size) + data[last + 10 : last + 12] + coding + data[last + 12 :]
        if fits:
            checked(made)
        else:
            with pytest.raises(InputError, match="in more parts than an image has"):
                checked(made)
