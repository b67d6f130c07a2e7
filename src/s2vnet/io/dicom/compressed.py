"""Checks of compressed frames: decoders allocate by a frame's own header, not by the attributes of the DICOM file.

JPEG and JPEG-LS (ITU-T T.81 B.2, T.87 C.2), JPEG 2000 (ITU-T T.800 A.4 to A.6; its file format: I.4), and run-length
encoding, whose header has no image size (DICOM PS3.5 G).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from struct import calcsize, unpack
from typing import Any, BinaryIO

from s2vnet.errors import InputError

MAX_TILES, MAX_COMPONENTS, MAX_LAYERS, MAX_SEGMENTS = 4096, 4, 256, 15
MAX_READS = 1 << 16
"""Largest number of reads of a frame: each tile may have about four parts, of four reads each."""
MIN_PRECINCT_EXPONENT = 3
"""Smallest precinct side as an exponent of 2: OpenJPEG takes about 500 bytes per precinct."""
_JPEG, _JPEG_2000, _JPEG_2000_FILE = b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "
_FRAME_HEADERS = frozenset((*range(0xC0, 0xD0), 0xF7)) - {0xC4, 0xC8, 0xCC}
"""JPEG markers of a frame header (SOF); three markers in this range have other meanings."""
_START_OF_SCAN, _FIRST_MARKER, _WITHOUT_LENGTH = 0xDA, 0xC0, range(0xD0, 0xDA)
"""Markers below the first one, and those without a length, make a decoder search for the next marker."""
_RLE_HEADER_NBYTES = 64
_RLE_CONSUMED = (*range(2, 130), 1, *[2] * 127)
"""Bytes of encoded data by control byte: a literal run, no operation, a repeated byte."""
_RLE_PRODUCED = (*range(1, 129), 0, *range(128, 1, -1))
"""Bytes of decoded data by control byte."""
_CODING, _COMPONENT_CODING, _TILE, _DATA, _END = 0xFF52, 0xFF53, 0xFF90, 0xFF93, 0xFFD9
_IGNORED = frozenset((0xFF55, 0xFF57, 0xFF58, 0xFF5C, 0xFF5D, 0xFF5E, 0xFF5F, 0xFF60, 0xFF61, 0xFF63, 0xFF64))
_EXTENSIONS = frozenset((0xFF50, 0xFF59))
"""Markers that some versions of OpenJPEG do not support; these search their segments for the next marker."""


class FragmentReader:
    """Random access to a frame that lies in one or more fragments of a file."""

    def __init__(self, stream: BinaryIO, parts: Sequence[tuple[int, int]]) -> None:
        """``parts``: start in the stream and length of each fragment."""
        self._stream, self._parts = stream, parts
        self._ends = list(accumulate(length for _, length in parts))
        self.size = self._ends[-1] if parts else 0
        self.reads = 0

    def read(self, at: int, count: int) -> bytes:
        """Read up to `count` bytes at an offset in the frame. Raises InputError after too many reads."""
        self.reads += 1
        if self.reads > MAX_READS:
            raise InputError("compressed pixels in more parts than an image has")
        data, number = b"", bisect_right(self._ends, at)
        while len(data) < count and number < len(self._parts):
            start, length = self._parts[number]
            skipped = max(at - (self._ends[number] - length), 0)
            self._stream.seek(start + skipped)
            data += self._stream.read(min(length - skipped, count - len(data)))
            number += 1
        return data

    def unpack(self, form: str, at: int) -> tuple[Any, ...]:
        """Unpack numbers in a :mod:`struct` format at an offset. Raises InputError beyond the frame's end."""
        data = self.read(at, calcsize(form))
        if len(data) < calcsize(form):
            raise InputError("compressed pixels that end too early")
        return unpack(form, data)


def is_compressed(start: bytes) -> bool:
    """Whether bytes are the start of a frame in one of the formats."""
    return start.startswith((_JPEG, _JPEG_2000, _JPEG_2000_FILE))


def may_start_frame(start: bytes) -> bool:
    """Whether a decoder may take bytes for the start of a frame; for JPEG, one marker is enough."""
    return start.startswith((_JPEG[:2], _JPEG_2000, _JPEG_2000_FILE))


def check_frame_size(frame: FragmentReader, rows: int, columns: int) -> None:
    """Check the headers of a JPEG, JPEG-LS or JPEG 2000 frame.

    Raises:
        InputError: another format, another size, or parts that are too many or too small.
    """
    start = frame.read(0, 8)
    if start.startswith(_JPEG):
        size = _jpeg_size(frame)
    elif start.startswith((_JPEG_2000, _JPEG_2000_FILE)):
        size = _jpeg_2000_size(frame, _find_codestream(frame) if start == _JPEG_2000_FILE else 0)
    else:
        raise InputError("compressed pixels of no known format")
    if size != (rows, columns):
        raise InputError(f"compressed pixels of {size[0]} rows and {size[1]} columns in an image of {rows}, {columns}")


def check_rle(frame: FragmentReader, nbytes: int) -> None:
    """Check that a run-length encoded frame decodes to `nbytes` bytes: GDCM copies all decoded bytes.

    Raises:
        InputError: a damaged header, or another number of bytes.
    """
    count, *offsets = frame.unpack("<16L", 0)
    if not 1 <= count <= MAX_SEGMENTS:
        raise InputError("compressed pixels with a damaged header")
    bounds = [*offsets[:count], frame.size]
    if bounds[0] < _RLE_HEADER_NBYTES or any(end <= start for start, end in pairwise(bounds)):
        raise InputError("compressed pixels with a damaged header")
    for start, end in pairwise(bounds):
        decoded = _rle_decoded_nbytes(frame.read(start, end - start), nbytes // count)
        if decoded * count != nbytes:
            raise InputError(f"compressed pixels of {decoded * count} bytes where {nbytes} are claimed")


def _rle_decoded_nbytes(data: bytes, expected: int) -> int:
    """Bytes that a segment decodes to; stops once `expected` is reached."""
    at = decoded = 0
    while decoded < expected and at < len(data):
        control = data[at]
        at += _RLE_CONSUMED[control]
        decoded += _RLE_PRODUCED[control]
    return decoded - max(at - len(data), 0)


def _jpeg_size(frame: FragmentReader) -> tuple[int, int]:
    """Rows and columns by the frame header."""
    at = 2
    while True:
        prefix, marker, length = frame.unpack(">BBH", at)
        if prefix != 0xFF or marker == _START_OF_SCAN or marker < _FIRST_MARKER or marker in _WITHOUT_LENGTH:
            raise InputError("compressed pixels without a header")
        if marker in _FRAME_HEADERS:
            rows, columns, components = frame.unpack(">HHB", at + 5)
            if components > MAX_COMPONENTS:
                raise InputError(f"compressed pixels of {components} components")
            return rows, columns
        if marker != 0xFF and length < 2:
            raise InputError("compressed pixels with a damaged header")
        at += 1 if marker == 0xFF else 2 + length


def _find_codestream(frame: FragmentReader) -> int:
    """Offset of the first codestream in the boxes of a JPEG 2000 file."""
    at = 0
    while True:
        length, box_type = frame.unpack(">LL", at)
        if box_type == int.from_bytes(b"jp2c", "big"):
            return at + 8
        if length < 8:
            raise InputError("compressed pixels in a damaged JPEG 2000 file")
        at += length


def _jpeg_2000_size(frame: FragmentReader, at: int) -> tuple[int, int]:
    """Rows and columns by the codestream at an offset, whose other headers are checked."""
    if frame.read(at, 4) != _JPEG_2000:
        raise InputError("compressed pixels without a header")
    length, _, right, bottom, left, top, *tiles, components = frame.unpack(">HH8LH", at + 4)
    tile_width, tile_height, tile_left, tile_top = tiles
    if not (tile_width and tile_height and components <= MAX_COMPONENTS):
        raise InputError("compressed pixels with a damaged header")
    if -((tile_left - right) // tile_width) * -((tile_top - bottom) // tile_height) > MAX_TILES:
        raise InputError("compressed pixels in more tiles than an image has")
    _check_marker_segments(frame, at + 4 + length)
    return bottom - top, right - left


def _check_marker_segments(frame: FragmentReader, at: int) -> None:
    """Check layers and precincts in the headers of a codestream and of its tiles."""
    tile_end = 0
    while at + 2 <= frame.size:
        marker = frame.unpack(">H", at)[0]
        if marker == _END:
            return
        if marker == _DATA and tile_end > at:
            at = tile_end
            continue
        length = frame.unpack(">H", at + 2)[0]
        if length < 2:
            raise InputError("compressed pixels with a damaged header")
        content = frame.read(at + 4, length - 2)
        if marker == _TILE and length == 10:
            size = int.from_bytes(content[2:6], "big")
            tile_end = at + size if size else frame.size
        elif marker in (_CODING, _COMPONENT_CODING):
            _check_coding_style(content, of_component=marker == _COMPONENT_CODING)
        elif marker not in _IGNORED and (marker not in _EXTENSIONS or b"\xff" in content):
            raise InputError("compressed pixels with a damaged header")
        at += 2 + length


def _check_coding_style(coding: bytes, *, of_component: bool) -> None:
    """Check the number of layers and the size of precincts in a coding style, of a component or of all."""
    style, fixed = (coding[1:2], 7) if of_component else (coding[:1], 10)
    layers = 1 if of_component else int.from_bytes(coding[2:4], "big")
    precincts = coding[fixed:] if style and style[0] & 1 else b""
    if layers > MAX_LAYERS or any(min(size & 15, size >> 4) < MIN_PRECINCT_EXPONENT for size in precincts):
        raise InputError("compressed pixels in more parts than an image has")
