"""Compressed frames are read by their headers alone, wherever in a file their parts lie."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from s2vnet.errors import InputError
from s2vnet.io.dicom.compressed import MAX_LAYERS, MAX_READS, MAX_SEGMENTS, FragmentReader, check_frame_size, check_rle

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
    check_frame_size(FragmentReader(io.BytesIO(data), [(0, len(data))]), rows, columns)


@given(st.binary(max_size=40), st.lists(st.integers(0, 9), max_size=8), st.integers(0, 50), st.integers(0, 50))
def test_parts_read_as_one(data: bytes, lengths: list[int], at: int, count: int) -> None:
    starts = [7 * number % max(len(data), 1) for number in range(len(lengths))]
    parts = [(start, min(length, len(data) - start)) for start, length in zip(starts, lengths, strict=True)]
    whole = b"".join(data[start : start + length] for start, length in parts)
    frame = FragmentReader(io.BytesIO(data), parts)
    assert frame.size == len(whole)
    assert frame.read(at, count) == whole[at : at + count]


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_has_its_own_size_and_no_other(name: str) -> None:
    data = FRAMES[name]
    checked(data)
    pieces = [(start, min(100, len(data) - start)) for start in range(0, len(data), 100)]
    check_frame_size(FragmentReader(io.BytesIO(data), pieces), ROWS, COLUMNS)
    for rows, columns in ((COLUMNS, ROWS), (ROWS - 1, COLUMNS), (0, 0)):
        with pytest.raises(InputError, match=f"pixels of {ROWS} rows and {COLUMNS} columns in an image of {rows}"):
            checked(data, rows, columns)
    for keep in (0, 3, 30):
        with pytest.raises(InputError, match="compressed pixels"):
            checked(data[:keep])


def test_every_header_of_a_tile_counts() -> None:
    data = FRAMES["tiles"]
    last = data.rindex(b"\xff\x90\0\x0a")
    for layers, fits in ((MAX_LAYERS, True), (MAX_LAYERS + 1, False)):
        coding = struct.pack(">HHBBHBBBBBB", 0xFF52, 12, 0, 0, layers, 0, 5, 4, 4, 0, 1)
        size = int.from_bytes(data[last + 6 : last + 10], "big") + len(coding)
        made = data[: last + 6] + struct.pack(">L", size) + data[last + 10 : last + 12] + coding + data[last + 12 :]
        if fits:
            checked(made)
        else:
            with pytest.raises(InputError, match="in more parts than an image has"):
                checked(made)


@pytest.mark.parametrize(
    "before",
    [b"\xff\0", b"\xff\x01", b"\xff\xd0", b"\xff\xd7", b"\xff\xd8", b"\xff\xd9", b"\xff\xe0\0\0", b"\xff\xfe\0\1"],
)
def test_a_jpeg_has_no_marker_without_a_length_before_its_size(before: bytes) -> None:
    data = FRAMES["JPEG"]
    checked(data[:2] + b"\xff\xff\xfe\0\2" + data[2:])
    hidden = before + b"\0\x40" + bytes(62) + data[2:]  # over which a decoder looks for the next marker
    with pytest.raises(InputError, match="compressed pixels with"):
        checked(data[:2] + hidden)


def test_a_jpeg_has_few_components() -> None:
    data = FRAMES["JPEG"]
    at = data.index(b"\xff\xc0") + 9
    with pytest.raises(InputError, match="of 5 components"):
        checked(data[:at] + b"\5" + data[at + 1 :], 0, 0)


def test_parts_of_a_frame_are_bounded() -> None:
    jpeg, jpeg_2000 = FRAMES["JPEG"], FRAMES["JPEG 2000"]
    tile = jpeg_2000.index(b"\xff\x90\0\x0a")
    remark = b"\xff\x64\0\2"
    part = struct.pack(">HHHLBB", 0xFF90, 10, 0, 14, 0, 0) + b"\xff\x93"
    checked(jpeg_2000[:tile] + remark * 100 + part * 100 + jpeg_2000[tile:])
    for made in (
        jpeg[:2] + b"\xff" * MAX_READS + jpeg[2:],
        jpeg[:2] + b"\xff\xfe\0\2" * MAX_READS + jpeg[2:],
        jpeg_2000[:tile] + remark * MAX_READS + jpeg_2000[tile:],
        jpeg_2000[:tile] + part * MAX_READS + jpeg_2000[tile:],
        FRAMES["a file"][:12] + b"\0\0\0\x08free" * MAX_READS + FRAMES["a file"][12:],
    ):
        with pytest.raises(InputError, match="in more parts than an image has"):
            checked(made)


def runs(*places: int, segments: bytes = b"", count: int | None = None) -> FragmentReader:
    header = struct.pack("<16L", len(places) if count is None else count, *places, *[0] * (15 - len(places)))
    data = header + segments
    return FragmentReader(io.BytesIO(data), [(0, 7), (7, len(data) - 7)])


def test_run_lengths_make_the_bytes_that_are_claimed() -> None:
    """Each segment is 10 bytes, of a run of 4, a literal of 5 and, after a byte that says nothing, one of 1."""
    segment = b"\xfdA\4BCDEF\x80\0G\0"
    for count in (1, 2, MAX_SEGMENTS):
        places = [64 + number * len(segment) for number in range(count)]
        frame = runs(*places, segments=segment * count)
        check_rle(frame, 10 * count)
        for claimed in (3 * count, 11 * count):  # GDCM would copy the end of a run beyond its place
            with pytest.raises(InputError, match=f"compressed pixels of .* where {claimed} are claimed"):
                check_rle(frame, claimed)
    for damaged in (
        runs(segments=segment),
        runs(64, count=MAX_SEGMENTS + 1, segments=segment),
        runs(63, segments=segment),
        runs(64, 64, segments=segment * 2),
        runs(76, 64, segments=segment * 2),
        runs(64, 88, segments=segment * 2),
        runs(64, 0xFFFFFFFF, segments=segment * 2),
    ):
        with pytest.raises(InputError, match="damaged header"):
            check_rle(damaged, 20)
    with pytest.raises(InputError, match="end too early"):
        check_rle(FragmentReader(io.BytesIO(bytes(63)), [(0, 63)]), 1)
