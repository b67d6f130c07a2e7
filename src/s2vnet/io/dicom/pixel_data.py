"""Check of the Pixel Data element (PS3.5, 8 and A.4), native or encapsulated, against the image's attributes."""

from __future__ import annotations

from typing import NamedTuple

from s2vnet.errors import InputError
from s2vnet.io.dicom.compressed import FragmentReader, check_frame_size, check_rle, is_compressed, may_start_frame
from s2vnet.io.dicom.elements import ITEM, SEQUENCE_END, UNDEFINED_LENGTH, ElementReader, tag_name

PIXEL_DATA = 0x7FE00010
MAX_FRAGMENTS = 1 << 18
"""Largest number of fragments of a file; each takes memory in this check."""
_FRAGMENTS_PER_FRAME, _EXTRA_FRAGMENTS = 16, 4096
MAX_ICON_NBYTES = 1 << 20
"""Size in bytes that an image in a sequence may claim beyond its data, since no attribute states its compression."""
_MIN_FRAGMENT_NBYTES = 4

Fragment = tuple[int, int]
"""Byte offset and length."""


class PixelSize(NamedTuple):
    """Attributes of an image that determine the size of its pixels."""

    rows: int
    columns: int
    samples: int
    bits: int
    """Bits allocated per sample."""
    frames: int

    @property
    def nbytes(self) -> int:
        """Size in bytes of all uncompressed frames."""
        return self.rows * self.columns * self.samples * self.bits * self.frames // 8


def check_pixel_data(
    reader: ElementReader, vr: bytes, length: int, end: int, size: PixelSize, *, rle: bool, nested: bool
) -> int:
    """Check the Pixel Data element whose header was read, and move behind it.

    Args:
        reader: positioned at the value.
        vr: value representation.
        length: length in bytes, or ``UNDEFINED_LENGTH`` for encapsulated frames.
        end: byte offset at which the data set ends.
        size: the image's attributes.
        rle: whether the transfer syntax is run-length encoding.
        nested: whether the image lies in a sequence, as an icon does.

    Returns:
        Number of bits that overlays may use in the pixels.

    Raises:
        InputError: other sizes than claimed, or damaged fragments.
    """
    if not (nested or size.rows * size.columns):
        raise InputError("pixels without rows and columns before them")
    if length == UNDEFINED_LENGTH:
        if vr not in (b"OB", b"OW"):
            raise InputError(f"{tag_name(PIXEL_DATA)} has no length")
        _check_encapsulated(reader, end, size, rle, nested)
        return size.rows * size.columns * size.frames
    reader.require_length(PIXEL_DATA, length, end)
    if size.nbytes > length and (size.nbytes > MAX_ICON_NBYTES if nested else size.samples == 1):
        raise InputError(f"pixels of {length} bytes where {size.nbytes} are claimed")
    if nested and is_compressed(reader.stream.read(8)):
        _check_frame(reader, [(reader.at, length)], size, rle, nested)
    reader.seek(reader.at + length)
    return length // 2


def _check_encapsulated(reader: ElementReader, end: int, size: PixelSize, rle: bool, nested: bool) -> None:
    fragments = _read_fragments(reader, end, min(_FRAGMENTS_PER_FRAME * size.frames + _EXTRA_FRAGMENTS, MAX_FRAGMENTS))
    frames = _group_by_frame(reader, fragments, size.frames, rle)
    if len(frames) != size.frames:
        raise InputError(f"compressed pixels of {len(frames)} frames where {size.frames} are claimed")
    for parts in frames:
        _check_frame(reader, parts, size, rle, nested)
    reader.seek(reader.at)


def _check_frame(reader: ElementReader, parts: list[Fragment], size: PixelSize, rle: bool, nested: bool) -> None:
    frame = FragmentReader(reader.stream, parts)
    if rle and not (nested and is_compressed(frame.read(0, 8))):
        check_rle(frame, size.nbytes // size.frames)
    else:
        check_frame_size(frame, size.rows, size.columns)
    reader.count(frame.reads)


def _read_fragments(reader: ElementReader, end: int, limit: int) -> list[Fragment]:
    """Fragments of encapsulated pixels without the first item, the offset table (PS3.5 A.4)."""
    fragments: list[Fragment] = []
    while reader.at + 8 <= end:
        tag, _, length = reader.read_element(explicit=False)
        if tag == SEQUENCE_END and length == 0:
            return fragments[1:]
        if tag != ITEM:
            raise InputError(f"{tag_name(tag)} where compressed pixels have to be")
        if length > end - reader.at:
            raise InputError(f"compressed pixels claim {length} bytes where {end - reader.at} are left")
        if fragments and length < _MIN_FRAGMENT_NBYTES:
            raise InputError(f"compressed pixels in a fragment of {length} bytes")
        if len(fragments) > limit:
            raise InputError(f"compressed pixels in more than {limit} fragments")
        fragments.append((reader.at, length))
        reader.seek(reader.at + length)
    raise InputError("compressed pixels without an end")


def _group_by_frame(reader: ElementReader, fragments: list[Fragment], frames: int, rle: bool) -> list[list[Fragment]]:
    """Fragments of each frame. Where there are more fragments than frames, a frame starts at each frame header.

    Raises:
        InputError: fragments that GDCM cannot combine.
    """
    if rle or len(fragments) == frames:
        return [fragments] if frames == 1 else [[fragment] for fragment in fragments]
    groups: list[list[Fragment]] = []
    for fragment in fragments:
        if not groups or may_start_frame(_read_at(reader, fragment, 8)):
            groups.append([])
        groups[-1].append(fragment)
    if frames > 1 and any(len(group) > 1 and _read_at(reader, group[0], 2) != b"\xff\xd8" for group in groups):
        raise InputError("frames of several fragments each, which are supported for JPEG only")
    return groups


def _read_at(reader: ElementReader, fragment: Fragment, count: int) -> bytes:
    reader.stream.seek(fragment[0])
    return reader.stream.read(count)
