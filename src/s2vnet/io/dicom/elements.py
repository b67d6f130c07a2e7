"""Element headers of a DICOM stream (PS3.5, 7): tag, value representation (VR) and length."""

from __future__ import annotations

from struct import Struct
from typing import BinaryIO

from s2vnet.errors import InputError

MAX_ELEMENTS = 2_000_000
"""Largest number of elements, items, fragments and reads of compressed frames in a file; each takes microseconds."""
UNDEFINED_LENGTH = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
"""Value representations whose length has 32 bits."""
SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_SWAPPED_ITEMS = frozenset((0xFEFF00E0, 0x3F3F3F00))


def tag_name(tag: int) -> str:
    """Name of a tag in messages."""
    return f"element ({tag >> 16:04X},{tag & 0xFFFF:04X})"


class ElementReader:
    """Cursor over the elements of a stream, with a limit on their number."""

    def __init__(self, stream: BinaryIO, end: int, at: int = 0) -> None:
        self.stream, self.end, self.at = stream, end, at
        self._count = 0
        self.set_byte_order(little=True)

    def set_byte_order(self, little: bool) -> None:
        """Set the byte order from the current position on."""
        mark = "<" if little else ">"
        self._explicit, self._implicit = Struct(f"{mark}HH2sH").unpack, Struct(f"{mark}HHL").unpack
        self._uint32, self._uint16 = Struct(f"{mark}L").unpack, Struct(f"{mark}H").unpack

    def read(self, count: int) -> bytes:
        """Read the next bytes, fewer at the end."""
        self.at += count
        return self.stream.read(count)

    def seek(self, at: int) -> None:
        """Move to a byte offset."""
        self.stream.seek(at)
        self.at = at

    def read_element(self, explicit: bool) -> tuple[int, bytes, int]:
        """Read tag, VR (empty where implicit, ``??`` where invalid) and length of the next element."""
        self.count(1)
        start = self.read(8)
        if not explicit:
            group, element, length = self._implicit(start)
            return group << 16 | element, b"", length
        group, element, vr, length = self._explicit(start)
        if vr in LONG_VRS and length == 0:  # two reserved bytes
            more = self.read(4)
            length = self._uint32(more)[0] if len(more) == 4 else UNDEFINED_LENGTH
        elif vr in LONG_VRS:
            vr = b"??"
        return group << 16 | element, vr, length

    def read_uint16(self, length: int) -> int:
        """Read a value of `length` bytes that starts with an unsigned short."""
        number: int = self._uint16(self.stream.read(2))[0]
        self.seek(self.at + length)
        return number

    def is_at_item(self, tag: int) -> bool:
        """Whether the value of element `tag` starts with an item. Raises InputError for one in the other byte order."""
        group, element = self._implicit(self.stream.read(4) + bytes(4))[:2]
        self.stream.seek(self.at)
        if group << 16 | element in _SWAPPED_ITEMS:
            raise InputError(f"{tag_name(tag)} is a sequence with its bytes in the wrong order")
        return bool(group << 16 | element == ITEM)

    def count(self, steps: int) -> None:
        """Count steps of work. Raises InputError beyond ``MAX_ELEMENTS``."""
        self._count += steps
        if self._count > MAX_ELEMENTS:
            raise InputError(f"more than {MAX_ELEMENTS} elements, items and fragments")

    def require_length(self, tag: int, length: int, end: int) -> None:
        """Raise InputError unless `length` bytes are left before `end`."""
        if length > end - self.at:
            raise InputError(f"{tag_name(tag)} claims {length} bytes where {max(end - self.at, 0)} are left")
