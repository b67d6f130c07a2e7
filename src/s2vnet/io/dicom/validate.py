"""Check of a DICOM file's elements before GDCM reads it (PS3.5, 7 and A; PS3.10, 7.1).

GDCM allocates what an element's length claims, up to 4 GB, and what rows and columns of an image, its icon or its
overlays claim. Where reading fails it tries other syntaxes, in which arbitrary bytes are read as lengths. Therefore
GDCM reads only files whose elements all follow their transfer syntax; lengths that it would repair (of known scanners)
are refused too. It looks up elements by tag regardless of their position, so those of an image must ascend.
"""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from s2vnet.errors import InputError
from s2vnet.io.dicom.elements import (
    ITEM,
    ITEM_END,
    LONG_VRS,
    SEQUENCE_END,
    SHORT_VRS,
    UNDEFINED_LENGTH,
    ElementReader,
    tag_name,
)
from s2vnet.io.dicom.pixel_data import PIXEL_DATA, PixelSize, check_pixel_data
from s2vnet.io.dicom.zip_archive import MAX_EXPANSION
from s2vnet.io.header_checks import MIN_PLAUSIBLE_NBYTES

MAX_DEPTH = 32
"""Largest depth of nested sequences: readers recurse, and a stack overflow ends the process."""
MAX_INFLATED_NBYTES = 1 << 30
"""Largest size of a deflated file."""
SERIES_UID, SERIES_NUMBER, MODALITY, FRAMES = 0x0020000E, 0x00200011, 0x00080060, 0x00280008
_SAMPLES, _ROWS, _COLUMNS, _BITS = 0x00280002, 0x00280010, 0x00280011, 0x00280100
_CLASS, _SYNTAX = 0x00020002, 0x00020010
_KEPT = frozenset((SERIES_UID, SERIES_NUMBER, MODALITY, FRAMES, _CLASS, _SYNTAX))
"""Elements whose values are read."""
_MAX_KEPT_NBYTES = 256
_SYNTAXES = "1.2.840.10008.1.2."
"""Prefix of the supported transfer syntaxes: all but Papyrus, which GDCM interprets differently."""
_RLE_LOSSLESS = "1.2.840.10008.1.2.5"
_SIZES = frozenset((_SAMPLES, _ROWS, _COLUMNS, _BITS))
_UNIQUE = frozenset((PIXEL_DATA, FRAMES, *_SIZES))
"""Elements that must not repeat; real files contain duplicates of other elements."""
_MIN_SIZE_NBYTES, _MAX_SIZE_NBYTES = 2, 7
"""Lengths of rows, columns and the like; GDCM takes longer values without a VR for sequences."""
_OVERLAYS, _ANY_OVERLAY = 0x60, 0xFF01FFFF
"""First byte of overlay tags, and a mask over their 128 even groups."""
_OVERLAY_ROWS, _OVERLAY_COLUMNS, _OVERLAY_FRAMES, _OVERLAY_DATA = 0x60000010, 0x60000011, 0x60000015, 0x60003000
_PIXEL_TAGS = frozenset((PIXEL_DATA, 0x7FE00008, 0x7FE00009))
_MISREAD_TAGS = frozenset((0x00FF4AA5, 0x01F71070, 0x031E0324))
"""Elements that GDCM interprets as a vendor's instead of the standard's."""
_MISREAD_LENGTH = 13
"""Length that GDCM takes for 10 in implicit VR."""
_ICONS = frozenset((0x00090010, 0x60030010))
"""Private elements, in any block, whose values GDCM reads as sequences if their VR is unknown."""
_MAX_PADDING_NBYTES = 1 << 16


class Header(NamedTuple):
    """Attributes that identify an image and its series."""

    values: dict[int, str]
    """Value by tag, of the elements that are read here."""
    has_pixels: bool


class _Syntax(NamedTuple):
    explicit: bool
    little: bool = True
    deflated: bool = False
    rle: bool = False


def read_header(file: Path) -> Header:
    """Check all elements of a file, also in sequences, and the fragments of compressed pixels.

    Only identifying values and run-length encoded pixels are read; a deflated file is inflated in memory.

    Raises:
        InputError: no DICOM file, or one whose elements do not follow its transfer syntax.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        validator = _Validator(stream, size)
        syntax = _read_meta_information(validator)
        if syntax.deflated:
            limit = min(max(MAX_EXPANSION * size, MIN_PLAUSIBLE_NBYTES), MAX_INFLATED_NBYTES)
            inflated = _inflate(stream.read(), limit)
            validator.stream, validator.at, validator.end = io.BytesIO(inflated), 0, len(inflated)
        validator.set_byte_order(syntax.little)
        validator.rle = syntax.rle
        validator.check_dataset(validator.end, syntax.explicit)
        validator.check_overlays()
    return Header(validator.values, validator.has_pixels)


def is_image(file: Path) -> bool:
    """Whether a file is an image by its class, or by its name where it has none; not a structure set or report."""
    with file.open("rb") as stream:
        if stream.read(132)[128:] != b"DICM":
            return file.suffix.lower() == ".dcm"
        validator = _Validator(stream, file.stat().st_size, 132)
        try:
            validator.check_dataset(validator.end, True, group=2)
        except InputError:
            return True
    return _CLASS not in validator.values or "Image Storage" in _uid(validator.values[_CLASS]).name


def _read_meta_information(validator: _Validator) -> _Syntax:
    """Read preamble and file meta information, which old files lack, up to the data set."""
    start = validator.read(132)
    if start[128:] != b"DICM":
        validator.seek(0)
        if start[:2] == b"\x08\x00":
            return _Syntax(explicit=start[4:6] in SHORT_VRS | LONG_VRS)
        if start[:2] != b"\x02\x00":
            raise InputError("no DICOM file")
    validator.check_dataset(validator.end, True, group=2)
    syntax = _uid(validator.values.get(_SYNTAX, ""))
    if not (f"{syntax}.".startswith(_SYNTAXES) and syntax.is_transfer_syntax):
        raise InputError("an unknown transfer syntax")
    return _Syntax(not syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated, syntax == _RLE_LOSSLESS)


def _uid(text: str) -> Any:
    from pydicom.config import IGNORE
    from pydicom.uid import UID

    return UID(text, IGNORE)


def _inflate(data: bytes, limit: int) -> bytes:
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = stream.decompress(data, limit + 1)
    except zlib.error as error:
        raise InputError("deflated data that cannot be inflated") from error
    if len(inflated) > limit:
        raise InputError(f"deflated data that grow beyond {limit} bytes")
    if not stream.eof:
        raise InputError("deflated data without an end")
    return inflated


class _Validator(ElementReader):
    """Recursive check of data sets, items and elements."""

    def __init__(self, stream: BinaryIO, end: int, at: int = 0) -> None:
        super().__init__(stream, end, at)
        self.values: dict[int, str] = {}
        self.has_pixels = self.rle = False
        self._overlays: dict[int, int] = {}
        self._overlay_capacity = 0

    def check_dataset(
        self, end: int, explicit: bool, *, depth: int = 0, delimited: bool = False, group: int = 0
    ) -> None:
        """Check a data set that ends at `end`, at its delimiter before that, or after its `group` where one is given.

        Raises:
            InputError: it ends elsewhere, or an element is damaged, unknown or out of order.
        """
        sizes: dict[int, int] = {}
        previous = -1
        while self.at + 8 <= end:
            start = self.at
            tag, vr, length = self.read_element(explicit)
            if tag == ITEM_END and delimited and length == 0:
                return
            if group and tag >> 16 != group:
                self.seek(start)
                return
            if tag == depth == 0 and self._is_padding(start, end):
                return
            if vr not in SHORT_VRS and (vr not in LONG_VRS if explicit else vr):
                raise InputError(f"an element of no known type at byte {start}")
            if tag >> 16 == 0xFFFE or tag in _MISREAD_TAGS or (group and (vr == b"SQ" or length == UNDEFINED_LENGTH)):
                raise InputError(f"{tag_name(tag)} where no such element may be, at byte {start}")
            if depth == 0 and tag <= previous and (tag < previous or tag in _UNIQUE or tag >> 24 == _OVERLAYS):
                raise InputError(f"{tag_name(tag)} after {tag_name(previous)}, at byte {start}")
            previous = tag
            if tag in _SIZES and vr != b"SQ" and 0 < length < UNDEFINED_LENGTH:
                if PIXEL_DATA in sizes:
                    raise InputError(f"{tag_name(tag)} after the pixels, at byte {start}")
                sizes.setdefault(tag, self._read_size(tag, length, end))
            elif tag == PIXEL_DATA:
                self._check_pixels(vr, length, end, sizes, depth)
                sizes[PIXEL_DATA] = length
            elif tag >> 24 == _OVERLAYS and depth == 0:
                self._check_overlay_element(tag, vr, length, end, explicit)
            else:
                self._check_value(tag, vr, length, end, explicit, depth)
        if delimited or (depth and self.at != end):
            raise InputError(f"a sequence that does not end where it should, at byte {end}")

    def check_overlays(self) -> None:
        """Check that overlays have the bits that they claim, their own or, in old images, the pixels' (PS3.3 C.9.2).

        Raises:
            InputError: one has fewer.
        """
        for first in {tag & 0xFFFF0000 for tag in self._overlays}:
            tags = (first | tag & 0xFFFF for tag in (_OVERLAY_ROWS, _OVERLAY_COLUMNS, _OVERLAY_DATA))
            rows, columns, length = (self._overlays.get(tag, 0) for tag in tags)
            frames = self._frame_count(first | _OVERLAY_FRAMES & 0xFFFF) if length else 1
            capacity = 8 * length or self._overlay_capacity
            if rows * columns * frames > capacity:
                raise InputError(f"an overlay of {capacity} bits where {rows * columns * frames} are claimed")

    def _check_value(self, tag: int, vr: bytes, length: int, end: int, explicit: bool, depth: int) -> None:
        if depth == 0 and tag in _PIXEL_TAGS:
            self.has_pixels = True
        if length == UNDEFINED_LENGTH and vr not in SHORT_VRS:
            if vr not in (b"SQ", b"UN", b"") or tag in _PIXEL_TAGS:
                raise InputError(f"{tag_name(tag)} has no length")
            self._check_items(end, explicit and vr == b"SQ", depth, delimited=True)
            return
        self.require_length(tag, length, end)
        if (vr == b"" and length == _MISREAD_LENGTH) or (vr == b"UL" and length % 4):
            raise InputError(f"{tag_name(tag)} has an invalid length of {length} bytes")
        if length and (vr == b"SQ" or (_may_be_sequence(tag, vr) and length >= 8 and self.is_at_item(tag))):
            self._check_items(self.at + length, explicit and vr == b"SQ", depth, delimited=False)
        elif depth == 0 and (tag in _KEPT or tag & _ANY_OVERLAY == _OVERLAY_FRAMES):
            if length > _MAX_KEPT_NBYTES:
                raise InputError(f"{tag_name(tag)} has an invalid length of {length} bytes")
            self.values.setdefault(tag, self.read(length).decode("ascii", "replace").strip(" \0"))
        else:
            if tag & _ANY_OVERLAY == _OVERLAY_DATA:
                self._overlays.setdefault(tag, length)
            self.seek(self.at + length)

    def _read_size(self, tag: int, length: int, end: int) -> int:
        """Read a number of rows, columns, samples or bits."""
        if not _MIN_SIZE_NBYTES <= length <= _MAX_SIZE_NBYTES:
            raise InputError(f"{tag_name(tag)} has an invalid length of {length} bytes")
        self.require_length(tag, length, end)
        return self.read_uint16(length)

    def _check_overlay_element(self, tag: int, vr: bytes, length: int, end: int, explicit: bool) -> None:
        """Check an element of an overlay, or a private one of a similar group."""
        is_size = tag & _ANY_OVERLAY in (_OVERLAY_ROWS, _OVERLAY_COLUMNS)
        if is_size and vr != b"SQ" and 0 < length < UNDEFINED_LENGTH:
            self._overlays[tag] = self._read_size(tag, length, end)
        else:
            self._check_value(tag, vr, length, end, explicit, 0)

    def _frame_count(self, tag: int) -> int:
        """Number of frames that an element states as text; without it one, as GDCM reads it."""
        text = self.values.get(tag) or "1"
        if not (text.isascii() and text.isdecimal()):
            raise InputError("a number of frames that is not a number")
        return max(int(text), 1)

    def _check_pixels(self, vr: bytes, length: int, end: int, sizes: dict[int, int], depth: int) -> None:
        """Check the pixels of a data set against the sizes stated before them."""
        frames = 1 if depth else self._frame_count(FRAMES)
        rows, columns = sizes.get(_ROWS, 0), sizes.get(_COLUMNS, 0)
        size = PixelSize(rows, columns, sizes.get(_SAMPLES, 1), sizes.get(_BITS, 0), frames)
        capacity = check_pixel_data(self, vr, length, end, size, rle=self.rle, nested=depth > 0)
        if depth == 0:
            self.has_pixels, self._overlay_capacity = True, capacity

    def _is_padding(self, start: int, end: int) -> bool:
        """Whether only zeros follow, as some archives write them."""
        at = self.at
        self.seek(start)
        if end - start <= _MAX_PADDING_NBYTES and not any(self.read(end - start)):
            return True
        self.seek(at)
        return False

    def _check_items(self, end: int, explicit: bool, depth: int, *, delimited: bool) -> None:
        """Check the items of a sequence that ends at `end` or at its delimiter."""
        if depth >= MAX_DEPTH:
            raise InputError(f"more than {MAX_DEPTH} nested sequences")
        while self.at + 8 <= end:
            tag, _, length = self.read_element(explicit=False)
            if tag == SEQUENCE_END and delimited and length == 0:
                return
            if tag != ITEM:
                raise InputError(f"{tag_name(tag)} where an item of a sequence has to be")
            if length == UNDEFINED_LENGTH:
                self.check_dataset(end, explicit, depth=depth + 1, delimited=True)
            elif length > end - self.at:
                raise InputError(f"an item claims {length} bytes where {end - self.at} are left")
            else:
                self.check_dataset(self.at + length, explicit, depth=depth + 1)
        if delimited or self.at != end:
            raise InputError(f"a sequence that does not end where it should, at byte {end}")


def _may_be_sequence(tag: int, vr: bytes) -> bool:
    """Whether GDCM may take a value for a sequence whose items have no VRs."""
    private = tag >> 16 & 1
    return vr == b"" or (vr == b"UN" and (not private or tag & 0xFFFF00FF in _ICONS))
