"""Headers of DICOM elements (PS3.5, 7.1)."""

from __future__ import annotations

import io
import struct

import pytest

from s2vnet.errors import InputError
from s2vnet.io.dicom.elements import ITEM, UNDEFINED_LENGTH, ElementReader, tag_name


def reader_of(data: bytes) -> ElementReader:
    return ElementReader(io.BytesIO(data), len(data))


@pytest.mark.parametrize("mark", ["<", ">"])
def test_tag_type_and_length_in_either_byte_order(mark: str) -> None:
    short = struct.pack(f"{mark}HH2sHH", 0x28, 0x10, b"US", 2, 512)
    long = struct.pack(f"{mark}HH2sHL", 0x7FE0, 0x10, b"OW", 0, UNDEFINED_LENGTH)
    implicit = struct.pack(f"{mark}HHL", 0x28, 0x11, 70_000)
    reader = reader_of(short + long + implicit)
    reader.set_byte_order(little=mark == "<")
    assert reader.read_element(explicit=True) == (0x00280010, b"US", 2)
    assert reader.read_uint16(2) == 512
    assert reader.read_element(explicit=True) == (0x7FE00010, b"OW", UNDEFINED_LENGTH)
    assert reader.read_element(explicit=False) == (0x00280011, b"", 70_000)
    assert reader.at == reader.end


def test_reserved_bytes_that_are_not_0_are_no_type() -> None:
    reader = reader_of(struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OW", 1, 4))
    assert reader.read_element(explicit=True)[1] == b"??"


def test_an_item_is_seen_without_being_read() -> None:
    item = struct.pack("<HHL", ITEM >> 16, ITEM & 0xFFFF, 0)
    reader = reader_of(item)
    assert reader.is_at_item(0x00081110)
    assert reader.read(8) == item
    assert not reader_of(bytes(8)).is_at_item(0x00081110)
    with pytest.raises(InputError, match=r"element \(0008,1110\) is a sequence with its bytes in the wrong order"):
        reader_of(struct.pack(">HHL", ITEM >> 16, ITEM & 0xFFFF, 0)).is_at_item(0x00081110)


def test_a_value_ends_before_its_data_set() -> None:
    reader = reader_of(bytes(10))
    reader.seek(4)
    reader.require_length(0x00280010, 6, reader.end)
    with pytest.raises(InputError, match=r"element \(0028,0010\) claims 7 bytes where 6 are left"):
        reader.require_length(0x00280010, 7, reader.end)
    assert tag_name(0x7FE00010) == "element (7FE0,0010)"
