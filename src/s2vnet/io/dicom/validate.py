"""What the elements of a DICOM file claim, walked by their headers before GDCM reads it (PS3.5, 7 and A; PS3.10, 7.1).

GDCM allocates what an element's length says, up to 4 GB; and where its first reading fails it tries others, to which
any bytes are lengths. So a file has to be what its transfer syntax says from the first element to the last, or GDCM
never sees it. What GDCM mends by itself on the way (lengths that some scanner was known to write) is refused too.
Of pixels, an image's, its icon's and its overlays', it allocates what rows and columns say, and of compressed ones
what they say. It finds elements by their tags wherever they stand, so that those of an image have to ascend.
"""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from struct import Struct
from typing import Any, BinaryIO, NamedTuple

from s2vnet.errors import InputError
from s2vnet.io.dicom.compressed import Frame, begins_frame, is_compressed, require_runs, require_size
from s2vnet.io.dicom.zip_archive import MOST_GROWTH
from s2vnet.io.header_checks import MIN_PLAUSIBLE_NBYTES

MOST_NESTED = 32
"""Sequences in sequences; each takes some of the stack of whoever reads it, which ends a process that has no more."""
MOST_ELEMENTS = 2_000_000
"""Of a file, with items, fragments and parts of compressed frames; each takes some microseconds here."""
MOST_FRAGMENTS, _PER_FRAME, _BESIDES = 1 << 18, 16, 4096
"""Of compressed pixels: of all frames, and so many of each and some more; each takes some memory here."""
MOST_INFLATED = 1 << 30
"""Bytes of a deflated file."""
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
_ONCE = frozenset((_PIXELS, _FRAMES, *_SIZES))
"""Of others, real files have some twice."""
_LEAST_SIZE, _LONGEST_SIZE = 2, 7
"""Bytes; GDCM takes longer ones without a type for sequences."""
_LEAST_FRAGMENT = 4
_OVERLAYS, _ANY_OVERLAY = 0x60, 0xFF01FFFF
"""Of a tag: its first byte, and what the 128 even groups of overlays have in common."""
_OVERLAY_ROWS, _OVERLAY_COLUMNS, _OVERLAY_FRAMES, _OVERLAY = 0x60000010, 0x60000011, 0x60000015, 0x60003000
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

    No value is read but some of identification and compressed pixels that are run lengths; a deflated file is inflated
    in memory.

    Raises:
        InputError: no DICOM file, or one whose elements do not lie in it as its transfer syntax says.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        walk = _Walk(stream, size)
        syntax = _before_dataset(walk)
        if syntax.deflated:
            inflated = _inflated(stream.read(), min(max(MOST_GROWTH * size, MIN_PLAUSIBLE_NBYTES), MOST_INFLATED))
            walk.stream, walk.at, walk.end = io.BytesIO(inflated), 0, len(inflated)
        walk.order(syntax.little)
        walk.runs = syntax.runs
        walk.dataset(walk.end, syntax.explicit)
        walk.require_overlays()
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
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        made = stream.decompress(data, most + 1)
    except zlib.error as error:
        raise InputError("deflated data that cannot be inflated") from error
    if len(made) > most:
        raise InputError(f"deflated data that grow beyond {most} bytes")
    if not stream.eof:
        raise InputError("deflated data without an end")
    return made


class _Walk:
    """A place in a stream of elements, which goes over one after the other."""

    def __init__(self, stream: BinaryIO, end: int, at: int = 0) -> None:
        self.stream, self.end, self.at = stream, end, at
        self.values: dict[int, str] = {}
        self.has_pixels = self.runs = False
        self._count = self._room = 0
        self._overlays: dict[int, int] = {}
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
        before = -1
        while self.at + 8 <= end:
            start = self.at
            tag, kind, length = self._element(explicit)
            if tag == _ITEM_END and delimited and length == 0:
                return
            if group and tag >> 16 != group:
                self.go(start)
                return
            if tag == depth == 0 and self._is_padding(start, end):
                return
            if kind not in _SHORT and (kind not in _LONG if explicit else kind):
                raise InputError(f"an element of no known type at byte {start}")
            if tag >> 16 == 0xFFFE or tag in _MISREAD_TAGS or (group and (kind == b"SQ" or length == _UNDEFINED)):
                raise InputError(f"{_named(tag)} where no such element may be, at byte {start}")
            if depth == 0 and tag <= before and (tag < before or tag in _ONCE or tag >> 24 == _OVERLAYS):
                raise InputError(f"{_named(tag)} after {_named(before)}, at byte {start}")
            before = tag
            if tag in _SIZES and kind != b"SQ" and 0 < length < _UNDEFINED:
                if _PIXELS in sizes:
                    raise InputError(f"{_named(tag)} after the pixels, at byte {start}")
                sizes.setdefault(tag, self._size(tag, length, end))
            elif tag == _PIXELS:
                self._pixels(kind, length, end, sizes, depth)
                sizes[_PIXELS] = length
            elif tag >> 24 == _OVERLAYS and depth == 0:
                self._overlay(tag, kind, length, end, explicit)
            else:
                self._value(tag, kind, length, end, explicit, depth)
        if delimited or (depth and self.at != end):
            raise InputError(f"a sequence that does not end where it should, at byte {end}")

    def _element(self, explicit: bool) -> tuple[int, bytes, int]:
        """Tag, type (empty where there is none) and length."""
        self._take(1)
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
        elif depth == 0 and (tag in _KEPT or tag & _ANY_OVERLAY == _OVERLAY_FRAMES):
            if length > _LONGEST_KEPT:
                raise InputError(f"{_named(tag)} has {length} bytes, which cannot be")
            self.values.setdefault(tag, self.read(length).decode("ascii", "replace").strip(" \0"))
        else:
            if tag & _ANY_OVERLAY == _OVERLAY:
                self._overlays.setdefault(tag, length)
            self.go(self.at + length)

    def _size(self, tag: int, length: int, end: int) -> int:
        """Rows or the like."""
        if not _LEAST_SIZE <= length <= _LONGEST_SIZE:
            raise InputError(f"{_named(tag)} has {length} bytes, which cannot be")
        self._require_room(tag, length, end)
        number: int = self._number(self.stream.read(2))[0]
        self.go(self.at + length)
        return number

    def _overlay(self, tag: int, kind: bytes, length: int, end: int, explicit: bool) -> None:
        """Over an element of an overlay, or of something private beside."""
        is_size = tag & _ANY_OVERLAY in (_OVERLAY_ROWS, _OVERLAY_COLUMNS)
        if is_size and kind != b"SQ" and 0 < length < _UNDEFINED:
            self._overlays[tag] = self._size(tag, length, end)
        else:
            self._value(tag, kind, length, end, explicit, 0)

    def require_overlays(self) -> None:
        """Each has the bits that it claims, of its own or, in old images, among those of the pixels (PS3.3 C.9.2).

        Raises:
            InputError: one has fewer.
        """
        for first in {tag & 0xFFFF0000 for tag in self._overlays}:
            wanted = (first | tag & 0xFFFF for tag in (_OVERLAY_ROWS, _OVERLAY_COLUMNS, _OVERLAY))
            rows, columns, length = (self._overlays.get(tag, 0) for tag in wanted)
            frames = self._frames(first | _OVERLAY_FRAMES & 0xFFFF) if length else 1
            held = 8 * length or self._room
            if rows * columns * frames > held:
                raise InputError(f"an overlay of {held} bits where {rows * columns * frames} are claimed")

    def _frames(self, tag: int) -> int:
        """As text says; none is one, as GDCM reads it."""
        text = self.values.get(tag) or "1"
        if not (text.isascii() and text.isdecimal()):
            raise InputError("a number of frames that is none")
        return max(int(text), 1)

    def _take(self, count: int) -> None:
        """Count what takes time."""
        self._count += count
        if self._count > MOST_ELEMENTS:
            raise InputError(f"more than {MOST_ELEMENTS} elements, items and fragments")

    def _require_room(self, tag: int, length: int, end: int) -> None:
        if length > end - self.at:
            raise InputError(f"{_named(tag)} claims {length} bytes where {max(end - self.at, 0)} are left")

    def _pixels(self, kind: bytes, length: int, end: int, sizes: dict[int, int], depth: int) -> None:
        """Over the pixels of a data set, of which so many are claimed by what stands before them."""
        rows, columns, samples = sizes.get(_ROWS, 0), sizes.get(_COLUMNS, 0), sizes.get(_SAMPLES, 1)
        frames = 1 if depth else self._frames(_FRAMES)
        claimed = rows * columns * samples * sizes.get(_BITS, 0) * frames // 8
        if depth == 0:
            self.has_pixels = True
            if not rows * columns:
                raise InputError("pixels without rows and columns before them")
        if length == _UNDEFINED:
            if kind not in (b"OB", b"OW"):
                raise InputError(f"{_named(_PIXELS)} has no length")
            parts = self._fragments(end, min(_PER_FRAME * frames + _BESIDES, MOST_FRAGMENTS))
            groups = self._by_frame(parts, frames)
            if len(groups) != frames:
                raise InputError(f"compressed pixels of {len(groups)} frames where {frames} are claimed")
            for group in groups:
                self._compressed(Frame(self.stream, group), rows, columns, claimed // frames, depth)
            self._room = self._room if depth else rows * columns * frames
            self.go(self.at)
            return
        self._require_room(_PIXELS, length, end)
        if claimed > length and (claimed > LARGEST_ICON if depth else samples == 1):
            raise InputError(f"pixels of {length} bytes where {claimed} are claimed")
        if depth and is_compressed(self.stream.read(8)):
            self._compressed(Frame(self.stream, [(self.at, length)]), rows, columns, claimed, depth)
        self._room = self._room if depth else length // 2
        self.go(self.at + length)

    def _by_frame(self, parts: list[tuple[int, int]], frames: int) -> list[list[tuple[int, int]]]:
        """Fragments of each frame; where there are more than frames, one begins as a frame does, whatever the table.

        Raises:
            InputError: fragments that GDCM does not put together.
        """
        if self.runs or len(parts) == frames:
            return [parts] if frames == 1 else [[part] for part in parts]
        groups: list[list[tuple[int, int]]] = []
        for part in parts:
            self.stream.seek(part[0])
            if not groups or begins_frame(self.stream.read(8)):
                groups.append([])
            groups[-1].append(part)
        if frames > 1 and any(len(group) > 1 and not self._is_jpeg(group[0]) for group in groups):
            raise InputError("frames of several fragments each, which are read of JPEG alone")
        return groups

    def _is_jpeg(self, part: tuple[int, int]) -> bool:
        self.stream.seek(part[0])
        return self.stream.read(2) == b"\xff\xd8"

    def _compressed(self, frame: Frame, rows: int, columns: int, claimed: int, depth: int) -> None:
        if self.runs and not (depth and is_compressed(frame.read(0, 8))):
            require_runs(frame, claimed)
        else:
            require_size(frame, rows, columns)
        self._take(frame.reads)

    def _is_padding(self, start: int, end: int) -> bool:
        """Whether nothing but zeros follows, as some archives write it."""
        at = self.at
        self.go(start)
        if end - start <= _LONGEST_PADDING and not any(self.read(end - start)):
            return True
        self.go(at)
        return False

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
            if tag == _ITEMS_END and delimited and length == 0:
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

    def _fragments(self, end: int, most: int) -> list[tuple[int, int]]:
        """Over compressed pixels (PS3.5 A.4): place and length of each part, without the first, which tells frames."""
        parts: list[tuple[int, int]] = []
        while self.at + 8 <= end:
            tag, _, length = self._element(explicit=False)
            if tag == _ITEMS_END and length == 0:
                return parts[1:]
            if tag != _ITEM:
                raise InputError(f"{_named(tag)} where compressed pixels have to be")
            if length > end - self.at:
                raise InputError(f"compressed pixels claim {length} bytes where {end - self.at} are left")
            if parts and length < _LEAST_FRAGMENT:
                raise InputError(f"compressed pixels in a fragment of {length} bytes")
            if len(parts) > most:
                raise InputError(f"compressed pixels in more than {most} fragments")
            parts.append((self.at, length))
            self.go(self.at + length)
        raise InputError("compressed pixels without an end")


def _may_be_sequence(tag: int, kind: bytes) -> bool:
    """Whether GDCM may take a value for a sequence whose items have no types."""
    private = tag >> 16 & 1
    return kind == b"" or (kind == b"UN" and (not private or tag & 0xFFFF00FF in _ICONS))


def _named(tag: int) -> str:
    return f"element ({tag >> 16:04X},{tag & 0xFFFF:04X})"
