"""What the header of a compressed frame claims: decoders allocate by it, whatever the DICOM file around it says.

JPEG and JPEG-LS (ITU-T T.81 B.2, T.87 C.2), JPEG 2000 (ITU-T T.800 A.4 to A.6, in a file I.4), and run lengths, which
have no size of their own (DICOM PS3.5 G).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from struct import unpack_from
from typing import BinaryIO

from s2vnet.errors import InputError

MOST_TILES, MOST_COMPONENTS, MOST_LAYERS, MOST_SEGMENTS = 4096, 4, 256, 15
MOST_READS = 1 << 16
"""Of a frame: every tile may have some four parts, of four reads each."""
LEAST_PRECINCT = 3
"""Exponent of 2: OpenJPEG takes some 500 bytes for each precinct."""
_JPEG, _JPEG_2000, _FILE = b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "
_FRAMES = frozenset((*range(0xC0, 0xD0), 0xF7)) - {0xC4, 0xC8, 0xCC}
"""Markers of a frame's header; three of the row are none."""
_SCAN, _FIRST_MARKER, _BARE = 0xDA, 0xC0, range(0xD0, 0xDA)
"""Before and among them are markers without a length, at which a decoder goes on to the next."""
_RUN_HEADER = 64
_RUN_TAKES, _RUN_MAKES = (*range(2, 130), 1, *[2] * 127), (*range(1, 129), 0, *range(128, 1, -1))
"""Bytes, by the first: of those that follow, of nothing, and of one that comes many times."""
_CODING, _CODING_OF_ONE, _TILE, _DATA, _END = 0xFF52, 0xFF53, 0xFF90, 0xFF93, 0xFFD9
_PASSED_OVER = frozenset((0xFF55, 0xFF57, 0xFF58, 0xFF5C, 0xFF5D, 0xFF5E, 0xFF5F, 0xFF60, 0xFF61, 0xFF63, 0xFF64))
_EXTENSIONS = frozenset((0xFF50, 0xFF59))
"""An OpenJPEG that does not know them looks for a marker within."""


class Frame:
    """Bytes of a frame, which lie in one or more parts of a file."""

    def __init__(self, stream: BinaryIO, parts: Sequence[tuple[int, int]]) -> None:
        """``parts``: start in the stream and length of each."""
        self._stream, self._parts = stream, parts
        self._ends = list(accumulate(length for _, length in parts))
        self.size = self._ends[-1] if parts else 0
        self.reads = 0

    def read(self, at: int, count: int) -> bytes:
        """Bytes from a place in the frame, fewer at its end. Raises InputError where that was too often."""
        self.reads += 1
        if self.reads > MOST_READS:
            raise InputError("compressed pixels in more parts than an image has")
        found, number = b"", bisect_right(self._ends, at)
        while len(found) < count and number < len(self._parts):
            start, length = self._parts[number]
            skipped = max(at - (self._ends[number] - length), 0)
            self._stream.seek(start + skipped)
            found += self._stream.read(min(length - skipped, count - len(found)))
            number += 1
        return found

    def numbers(self, form: str, at: int, count: int) -> tuple[int, ...]:
        """Numbers that lie in so many bytes. Raises InputError at the frame's end."""
        found = self.read(at, count)
        if len(found) < count:
            raise InputError("compressed pixels that end too early")
        return unpack_from(form, found)


def is_compressed(start: bytes) -> bool:
    """Whether bytes begin as a frame of one of the formats does."""
    return start.startswith((_JPEG, _JPEG_2000, _FILE))


def begins_frame(start: bytes) -> bool:
    """Whether a decoder may take bytes for the begin of a frame; of JPEG, it needs but a marker."""
    return start.startswith((_JPEG[:2], _JPEG_2000, _FILE))


def require_size(frame: Frame, rows: int, columns: int) -> None:
    """Check the headers of a frame.

    Raises:
        InputError: none of the formats, not of that size, or parts that are too many or too small.
    """
    start = frame.read(0, 8)
    if start.startswith(_JPEG):
        found = _jpeg(frame)
    elif start.startswith((_JPEG_2000, _FILE)):
        found = _jpeg_2000(frame, _codestream(frame) if start == _FILE else 0)
    else:
        raise InputError("compressed pixels of no known format")
    if found != (rows, columns):
        raise InputError(
            f"compressed pixels of {found[0]} rows and {found[1]} columns in an image of {rows}, {columns}"
        )


def require_runs(frame: Frame, claimed: int) -> None:
    """Walk a frame of run lengths, which has to make the bytes that are claimed: GDCM copies all that it makes.

    Raises:
        InputError: a damaged header, or more bytes or fewer.
    """
    count, *places = frame.numbers("<16L", 0, _RUN_HEADER)
    if not 1 <= count <= MOST_SEGMENTS:
        raise InputError("compressed pixels with a damaged header")
    bounds = [*places[:count], frame.size]
    if bounds[0] < _RUN_HEADER or any(end <= start for start, end in pairwise(bounds)):
        raise InputError("compressed pixels with a damaged header")
    for start, end in pairwise(bounds):
        made = _run_lengths(frame.read(start, end - start), claimed // count)
        if made * count != claimed:
            raise InputError(f"compressed pixels of {made * count} bytes where {claimed} are claimed")


def _run_lengths(data: bytes, enough: int) -> int:
    """Bytes that a segment makes, until they are enough."""
    at = made = 0
    while made < enough and at < len(data):
        count = data[at]
        at += _RUN_TAKES[count]
        made += _RUN_MAKES[count]
    return made - max(at - len(data), 0)


def _jpeg(frame: Frame) -> tuple[int, int]:
    at = 2
    while True:
        sign, marker, length = frame.numbers(">BBH", at, 4)
        if sign != 0xFF or marker == _SCAN or marker < _FIRST_MARKER or marker in _BARE:
            raise InputError("compressed pixels without a header")
        if marker in _FRAMES:
            rows, columns, components = frame.numbers(">HHB", at + 5, 5)
            if components > MOST_COMPONENTS:
                raise InputError(f"compressed pixels of {components} components")
            return rows, columns
        if marker != 0xFF and length < 2:
            raise InputError("compressed pixels with a damaged header")
        at += 1 if marker == 0xFF else 2 + length


def _codestream(frame: Frame) -> int:
    """Where the first one lies in the boxes of a JPEG 2000 file."""
    at = 0
    while True:
        length, kind = frame.numbers(">LL", at, 8)
        if kind == int.from_bytes(b"jp2c", "big"):
            return at + 8
        if length < 8:
            raise InputError("compressed pixels in a damaged file of their own")
        at += length


def _jpeg_2000(frame: Frame, at: int) -> tuple[int, int]:
    if frame.read(at, 4) != _JPEG_2000:
        raise InputError("compressed pixels without a header")
    length, _, right, bottom, left, top, *tiles, components = frame.numbers(">HH8LH", at + 4, 38)
    width, height, first, upper = tiles
    if not (width and height and components <= MOST_COMPONENTS):
        raise InputError("compressed pixels with a damaged header")
    if -((first - right) // width) * -((upper - bottom) // height) > MOST_TILES:
        raise InputError("compressed pixels in more tiles than an image has")
    _require_coding(frame, at + 4 + length)
    return bottom - top, right - left


def _require_coding(frame: Frame, at: int) -> None:
    """Over the headers of a codestream and of its tiles, for what they say of layers and precincts."""
    end = 0
    while at + 2 <= frame.size:
        marker = frame.numbers(">H", at, 2)[0]
        if marker == _END:
            return
        if marker == _DATA and end > at:
            at = end
            continue
        length = frame.numbers(">H", at + 2, 2)[0]
        if length < 2:
            raise InputError("compressed pixels with a damaged header")
        content = frame.read(at + 4, length - 2)
        if marker == _TILE and length == 10:
            size = int.from_bytes(content[2:6], "big")
            end = at + size if size else frame.size
        elif marker in (_CODING, _CODING_OF_ONE):
            _require_few(content, of_one=marker == _CODING_OF_ONE)
        elif marker not in _PASSED_OVER and (marker not in _EXTENSIONS or b"\xff" in content):
            raise InputError("compressed pixels with a damaged header")
        at += 2 + length


def _require_few(coding: bytes, *, of_one: bool) -> None:
    """Check a style of coding, of one component or of all."""
    style, fixed = (coding[1:2], 7) if of_one else (coding[:1], 10)
    layers = 1 if of_one else int.from_bytes(coding[2:4], "big")
    precincts = coding[fixed:] if style and style[0] & 1 else b""
    if layers > MOST_LAYERS or any(min(size & 15, size >> 4) < LEAST_PRECINCT for size in precincts):
        raise InputError("compressed pixels in more parts than an image has")
