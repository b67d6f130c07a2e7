"""What the header of a compressed frame claims: decoders allocate by it, whatever the DICOM file around it says.

JPEG and JPEG-LS (ITU-T T.81 B.2, T.87 C.2), JPEG 2000 (ITU-T T.800 A.5, in a file I.4).
"""

from __future__ import annotations

from struct import unpack_from

from s2vnet.types import InputError

LONGEST_HEADER = 1 << 16
"""Bytes of a frame that are looked at; an ICC profile may come before its size."""
MOST_TILES, MOST_COMPONENTS = 4096, 4
_JPEG, _JPEG_2000, _FILE = b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "
_FRAMES = frozenset((*range(0xC0, 0xD0), 0xF7)) - {0xC4, 0xC8, 0xCC}
"""Markers of a frame's header; three of the row are none."""
_SIZE_LENGTH = 44


def starts_frame(data: bytes) -> bool:
    """Whether bytes begin as a frame does."""
    return data.startswith((_JPEG, _JPEG_2000, _FILE))


def require_size(data: bytes, rows: int, columns: int) -> None:
    """Check the first ``LONGEST_HEADER`` bytes of a frame.

    Raises:
        InputError: none of the formats, no header in these bytes, or not of that size.
    """
    if data.startswith(_FILE):
        data = _codestream(data)
    if data.startswith(_JPEG_2000):
        found = _jpeg_2000(data)
    elif data.startswith(_JPEG):
        found = _jpeg(data)
    else:
        raise InputError("compressed pixels of no known format")
    if found != (rows, columns):
        raise InputError(
            f"compressed pixels of {found[0]} rows and {found[1]} columns in an image of {rows}, {columns}"
        )


def _jpeg(data: bytes) -> tuple[int, int]:
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int(unpack_from(">H", data, at + 2)[0])
        if marker in _FRAMES:
            rows, columns, components = unpack_from(">HHB", data, at + 5)
            return (rows, columns) if components <= MOST_COMPONENTS else (0, 0)
        at += 1 if marker == 0xFF else 2 + length
        if marker == 0xDA:
            break
    raise InputError("compressed pixels without a header")


def _codestream(data: bytes) -> bytes:
    """The first one in the boxes of a JPEG 2000 file; nothing where there is none."""
    at = 0
    while at + 8 <= len(data):
        length, kind = unpack_from(">L4s", data, at)
        if kind == b"jp2c" or length < 8:
            return data[at + 8 :] if kind == b"jp2c" else b""
        at += length
    return b""


def _jpeg_2000(data: bytes) -> tuple[int, int]:
    if len(data) < _SIZE_LENGTH:
        raise InputError("compressed pixels without a header")
    right, bottom, left, top, width, height, first, upper, components = unpack_from(">8LH", data, 8)
    if not (width and height and components <= MOST_COMPONENTS):
        raise InputError("compressed pixels with a damaged header")
    if -((first - right) // width) * -((upper - bottom) // height) > MOST_TILES:
        raise InputError("compressed pixels in more tiles than an image has")
    return bottom - top, right - left
