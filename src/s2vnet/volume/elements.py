"""What the elements of a DICOM file claim, walked by their headers before GDCM reads it (PS3.5, 7 and A; PS3.10, 7.1).

GDCM allocates what an element's length says, up to 4 GB; and where its first reading fails it tries others, to which
any bytes are lengths. So a file has to be what its transfer syntax says from the first element to the last, or GDCM
never sees it. What GDCM mends by itself on the way (lengths that some scanner was known to write) is refused too.
Of pixels, an image's and its icon's, it allocates what rows and columns say, and of compressed ones what they say.
"""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from struct import Struct
from typing import Any, BinaryIO, NamedTuple

from s2vnet.types import InputError
from s2vnet.volume.archive import MOST_GROWTH
from s2vnet.volume.codestream import Frame, is_compressed, require_size
from s2vnet.volume.frames import EVERY_FILE

MOST_NESTED = 32
"""Sequences in sequences; each takes some of the stack of whoever reads it, which ends a process that has no more."""
SERIES_UID, SERIES_NUMBER, MODALITY = 0x0020000E, 0x00200011, 0x00080060
_SAMPLES, _FRAMES, _ROWS, _COLUMNS, _BITS = 0x00280002, 0x00280008, 0x00280010, 0x00280011, 0x00280100
_CLASS, _SYNTAX = 0x00020002, 0x00020010
_KEPT = frozenset((SERIES_UID, SERIES_NUMBER, MODALITY, _FRAMES, _CLASS, _SYNTAX))
_LONGEST_KEPT = 256
_SYNTAXES = "1.2.840.10008.1.2."
"""All but Papyrus, of which GDCM thinks otherwise."""
_RUN_LENGTHS = "1.2.840.10008.1.2.5"
_PIXELS = 0x7FE00010
_SIZES = frozenset((_SAMPLES, _ROWS, _COLUMNS, _BITS))
LARGEST_ICON = 1 << 20
"""Bytes that an image in a sequence may claim beyond those that it has; it may be compressed with no word of it."""
_PIXEL_TAGS = frozenset((_PIXELS, 0x7FE00008, 0x7FE00009))
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _ITEMS_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_SWAPPED_ITEMS = frozenset((0xFEFF00E0, 0x3F3F3F00))
_MISREAD_TAGS = frozenset((0x00FF4AA5, 0x01F71070, 0x031E0324))
"""At these GDCM departs from the standard, for files of some makers."""
_MISREAD_LENGTH = 13
"""Without types, GDCM takes it for 10."""
_ICONS = frozenset((0x00090010, 0x60030010))
"""Private elements, of any block, of which GDCM takes values of unknown type for sequences."""
_LONGEST_PADDING = 1 << 16
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
"""Value representations whose length has 32 bits."""
_SHORT = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())


class Header(NamedTuple):
    """What tells an image and its series."""

    values: dict[int, str]
    """By tag, of those that are asked for here."""
    has_pixels: bool


class _Syntax(NamedTuple):
    explicit: bool
    little: bool = True
    deflated: bool = False
    runs: bool = False
    """Compressed pixels are run lengths, which have no header with a size."""


def read_header(file: Path) -> Header:
    """Walk all elements of a file; those in sequences, and the fragments of compressed pixels, too.

    No value is read but some of identification; a deflated file is inflated in memory.

    Raises:
        InputError: no DICOM file, or one whose elements do not lie in it as its transfer syntax says.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        walk = _Walk(stream, size)
        syntax = _before_dataset(walk)
        if syntax.deflated:
            inflated = _inflated(stream.read(), max(MOST_GROWTH * size, EVERY_FILE))
            walk.stream, walk.at, walk.end = io.BytesIO(inflated), 0, len(inflated)
        walk.order(syntax.little)
        walk.runs = syntax.runs
        walk.dataset(walk.end, syntax.explicit)
    return Header(walk.values, walk.has_pixels)


def is_image(file: Path) -> bool:
    """Whether a file says, or its name promises, that it is an image; a structure set or report does not."""
    with file.open("rb") as stream:
        if stream.read(132)[128:] != b"DICM":
            return file.suffix.lower() == ".dcm"
        walk = _Walk(stream, file.stat().st_size, 132)
        try:
            walk.dataset(walk.end, True, group=2)
        except InputError:
            return True
    return _CLASS not in walk.values or "Image Storage" in _uid(walk.values[_CLASS]).name


def _before_dataset(walk: _Walk) -> _Syntax:
    """Over preamble and file meta information; old files have neither."""
    start = walk.read(132)
    if start[128:] != b"DICM":
        walk.go(0)
        if start[:2] == b"\x08\x00":
            return _Syntax(explicit=start[4:6] in _SHORT | _LONG)
        if start[:2] != b"\x02\x00":
            raise InputError("no DICOM file")
    walk.dataset(walk.end, True, group=2)
    name = _uid(walk.values.get(_SYNTAX, ""))
    if not (f"{name}.".startswith(_SYNTAXES) and name.is_transfer_syntax):
        raise InputError("a transfer syntax that is not known")
    return _Syntax(not name.is_implicit_VR, name.is_little_endian, name.is_deflated, name == _RUN_LENGTHS)


def _uid(text: str) -> Any:
    from pydicom.config import IGNORE
    from pydicom.uid import UID

    return UID(text, IGNORE)


def _inflated(data: bytes, most: int) -> bytes:
    try:
        made = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, most + 1)
    except zlib.error as error:
        raise InputError("deflated data that cannot be inflated") from error
    if len(made) > most:
        raise InputError(f"deflated data that grow beyond {most} bytes")
    return made


class _Walk:
    """A place in a stream of elements, which goes over one after the other."""

    def __init__(self, stream: BinaryIO, end: int, at: int = 0) -> None:
        self.stream, self.end, self.at = stream, end, at
        self.values: dict[int, str] = {}
        self.has_pixels = self.runs = False
        self.order(little=True)

    def order(self, little: bool) -> None:
        """Of bytes, from here on."""
        mark = "<" if little else ">"
        self._typed, self._untyped = Struct(f"{mark}HH2sH").unpack, Struct(f"{mark}HHL").unpack
        self._length, self._number = Struct(f"{mark}L").unpack, Struct(f"{mark}H").unpack

    def read(self, count: int) -> bytes:
        """The next bytes, fewer at the end."""
        self.at += count
        return self.stream.read(count)

    def go(self, at: int) -> None:
        """To a place in the file."""
        self.stream.seek(at)
        self.at = at

    def dataset(self, end: int, explicit: bool, *, depth: int = 0, delimited: bool = False, group: int = 0) -> None:
        """Over a data set that ends at ``end``, at its delimiter before that, or with its ``group`` where one is given.

        Raises:
            InputError: it does not.
        """
        sizes: dict[int, int] = {}
        while self.at + 8 <= end:
            start = self.at
            tag, kind, length = self._element(explicit)
            if tag == _ITEM_END and delimited and length == 0:
                return
            if group and tag >> 16 != group:
                self.go(start)
                return
            if explicit and kind == b"\0\0" and depth == 0 and self._is_padding(start, end):
                return
            if kind not in _SHORT and (kind not in _LONG if explicit else kind):
                raise InputError(f"an element of no known type at byte {start}")
            if tag >> 16 == 0xFFFE or tag in _MISREAD_TAGS or (group and (kind == b"SQ" or length == _UNDEFINED)):
                raise InputError(f"{_named(tag)} where no such element may be, at byte {start}")
            if tag in _SIZES and kind != b"SQ" and 2 <= length < _UNDEFINED:
                self._require_room(tag, length, end)
                sizes.setdefault(tag, self._number(self.stream.read(2))[0])
                self.go(self.at + length)
            elif tag == _PIXELS:
                self._pixels(kind, length, end, sizes, depth)
            else:
                self._value(tag, kind, length, end, explicit, depth)
        if delimited or (depth and self.at != end):
            raise InputError(f"a sequence that does not end where it should, at byte {end}")

    def _element(self, explicit: bool) -> tuple[int, bytes, int]:
        """Tag, type (empty where there is none) and length."""
        start = self.read(8)
        if not explicit:
            group, element, length = self._untyped(start)
            return group << 16 | element, b"", length
        group, element, kind, length = self._typed(start)
        if kind in _LONG and length == 0:  # two bytes that are reserved
            more = self.read(4)
            length = self._length(more)[0] if len(more) == 4 else _UNDEFINED
        elif kind in _LONG:
            kind = b"??"
        return group << 16 | element, kind, length

    def _value(self, tag: int, kind: bytes, length: int, end: int, explicit: bool, depth: int) -> None:
        if depth == 0 and tag in _PIXEL_TAGS:
            self.has_pixels = True
        if length == _UNDEFINED and kind not in _SHORT:
            if kind not in (b"SQ", b"UN", b"") or tag in _PIXEL_TAGS:
                raise InputError(f"{_named(tag)} has no length")
            self._items(end, explicit and kind == b"SQ", depth, delimited=True)
            return
        self._require_room(tag, length, end)
        if (kind == b"" and length == _MISREAD_LENGTH) or (kind == b"UL" and length % 4):
            raise InputError(f"{_named(tag)} has {length} bytes, which cannot be")
        if length and (kind == b"SQ" or (_may_be_sequence(tag, kind) and length >= 8 and self._starts_items(tag))):
            self._items(self.at + length, explicit and kind == b"SQ", depth, delimited=False)
        elif depth == 0 and tag in _KEPT and length <= _LONGEST_KEPT:
            self.values.setdefault(tag, self.read(length).decode("ascii", "replace").strip(" \0"))
        else:
            self.go(self.at + length)

    def _require_room(self, tag: int, length: int, end: int) -> None:
        if length > end - self.at:
            raise InputError(f"{_named(tag)} claims {length} bytes where {max(end - self.at, 0)} are left")

    def _pixels(self, kind: bytes, length: int, end: int, sizes: dict[int, int], depth: int) -> None:
        """Over the pixels of a data set, of which so many are claimed by what stands before them."""
        rows, columns, samples = sizes.get(_ROWS, 0), sizes.get(_COLUMNS, 0), sizes.get(_SAMPLES, 1)
        self.has_pixels |= depth == 0
        text = self.values.get(_FRAMES) or "1" if depth == 0 else "1"
        if not (text.isascii() and text.isdecimal()):
            raise InputError("a number of frames that is none")
        frames = int(text)
        if length == _UNDEFINED:
            if kind not in (b"OB", b"OW"):
                raise InputError(f"{_named(_PIXELS)} has no length")
            parts = self._fragments(end)
            for group in [] if self.runs else [parts] if frames == 1 else [[part] for part in parts]:
                require_size(Frame(self.stream, group), rows, columns)
            self.go(self.at)
            return
        self._require_room(_PIXELS, length, end)
        claimed = rows * columns * samples * sizes.get(_BITS, 0) * frames // 8
        if claimed > length and (claimed > LARGEST_ICON if depth else samples == 1):
            raise InputError(f"pixels of {length} bytes where {claimed} are claimed")
        if depth and is_compressed(self.stream.read(8)):
            require_size(Frame(self.stream, [(self.at, length)]), rows, columns)
        self.go(self.at + length)

    def _is_padding(self, start: int, end: int) -> bool:
        """Whether nothing but zeros follows, as some archives write it; with them it has no length but 0."""
        self.go(start)
        return end - start <= _LONGEST_PADDING and not any(self.read(end - start))

    def _starts_items(self, tag: int) -> bool:
        """Whether a value of no type is that of a sequence."""
        group, element = self._untyped(self.stream.read(4) + bytes(4))[:2]
        self.stream.seek(self.at)
        if group << 16 | element in _SWAPPED_ITEMS:
            raise InputError(f"{_named(tag)} is a sequence with its bytes in the wrong order")
        return bool(group << 16 | element == _ITEM)

    def _items(self, end: int, explicit: bool, depth: int, *, delimited: bool) -> None:
        """Over the items of a sequence."""
        if depth >= MOST_NESTED:
            raise InputError(f"more than {MOST_NESTED} sequences in one another")
        while self.at + 8 <= end:
            tag, _, length = self._element(explicit=False)
            if tag == _ITEMS_END and delimited:
                return
            if tag != _ITEM:
                raise InputError(f"{_named(tag)} where an item of a sequence has to be")
            if length == _UNDEFINED:
                self.dataset(end, explicit, depth=depth + 1, delimited=True)
            elif length > end - self.at:
                raise InputError(f"an item claims {length} bytes where {end - self.at} are left")
            else:
                self.dataset(self.at + length, explicit, depth=depth + 1)
        if delimited or self.at != end:
            raise InputError(f"a sequence that does not end where it should, at byte {end}")

    def _fragments(self, end: int) -> list[tuple[int, int]]:
        """Over compressed pixels (PS3.5 A.4): place and length of each part, without the first, which tells frames."""
        parts: list[tuple[int, int]] = []
        while self.at + 8 <= end:
            tag, _, length = self._element(explicit=False)
            if tag == _ITEMS_END:
                return parts[1:]
            if tag != _ITEM or length > end - self.at:
                raise InputError(f"compressed pixels claim {length} bytes where {end - self.at} are left")
            parts.append((self.at, length))
            self.go(self.at + length)
        raise InputError("compressed pixels without an end")


def _may_be_sequence(tag: int, kind: bytes) -> bool:
    """Whether GDCM may take a value for a sequence whose items have no types."""
    private = tag >> 16 & 1
    return kind == b"" or (kind == b"UN" and (not private or tag & 0xFFFF00FF in _ICONS))


def _named(tag: int) -> str:
    return f"element ({tag >> 16:04X},{tag & 0xFFFF:04X})"
