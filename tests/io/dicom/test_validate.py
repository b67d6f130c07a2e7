"""A DICOM file is what its transfer syntax says to the last element, or GDCM never sees it."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pydicom
import pytest
from dicom_files import encodings, write_frames, write_jpeg, write_series

from s2vnet.errors import InputError
from s2vnet.io.dicom import elements, pixel_data, validate
from s2vnet.io.dicom.validate import MAX_DEPTH, MODALITY, SERIES_UID, is_image, read_header
from s2vnet.io.files import read_geometry, read_image

VOXELS = np.arange(256, dtype=np.int16).reshape(16, 16, 1)
"""Encoders of pixels refuse less."""
META = struct.pack("<HH2sH", 2, 0x10, b"UI", 20)
EXPLICIT, IMPLICIT = META + b"1.2.840.10008.1.2.1\0", META[:-2] + b"\x12\0" + b"1.2.840.10008.1.2\0"
RUNS = META + b"1.2.840.10008.1.2.5\0"
JPEG_2000 = META[:-2] + b"\x16\0" + b"1.2.840.10008.1.2.4.90"
DEFLATED = META[:-2] + b"\x16\0" + b"1.2.840.10008.1.2.1.99"
HUGE = 0xFFFFFFF0
NO_LENGTH = 0xFFFFFFFF
CLASS = struct.pack("<HH2sH", 2, 2, b"UI", 26) + b"1.2.840.10008.5.1.4.1.1.2\0"


def typed(tag: int, kind: bytes, length: int, value: bytes = b"") -> bytes:
    """An element of a length of 32 bits."""
    return struct.pack("<HH2sHL", tag >> 16, tag & 0xFFFF, kind, 0, length) + value


def plain(tag: int, length: int, value: bytes = b"") -> bytes:
    """An element without a type, an item, or a delimiter."""
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, length) + value


def number(tag: int, value: int) -> bytes:
    """An element of a number of 16 bits."""
    return struct.pack("<HH2sHH", tag >> 16, tag & 0xFFFF, b"US", 2, value)


def text(tag: int, value: bytes) -> bytes:
    """An element of digits."""
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, b"IS", len(value)) + value


def image(*, frames: bytes = b"1 ", rows: int = 4) -> bytes:
    """What is said of an image of 4 columns and 8 bits."""
    sizes = number(0x00280010, rows) + number(0x00280011, 4) + number(0x00280100, 8)
    return number(0x00280002, 1) + text(0x00280008, frames) + sizes


def overlay(*, frames: bytes = b"1 ", data: bytes = b"") -> bytes:
    """An overlay of 60 000 rows and columns."""
    sizes = number(0x60020010, 60_000) + number(0x60020011, 60_000) + text(0x60020015, frames)
    return sizes + number(0x60020100, 16) + number(0x60020102, 12) + data


def unended(data: bytes) -> bytes:
    """Deflated, all of it, but without the mark of an end."""
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH)


def fragments(*parts: bytes) -> bytes:
    """Compressed pixels, with an empty table of frames."""
    items = b"".join(plain(ITEM, len(part), part) for part in (b"", *parts))
    return typed(PIXELS, b"OB", NO_LENGTH, items + plain(ITEMS_END, 0))


ITEM, ITEM_END, ITEMS_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
SEQUENCE, PRIVATE, PIXELS = 0x00081110, 0x00091010, 0x7FE00010
LIE = typed(PRIVATE, b"OB", HUGE, b"1234")
PLAIN_LIE = plain(PRIVATE, HUGE, b"1234")
RAW = typed(PIXELS, b"OB", 16, bytes(16))
RUN = struct.pack("<16L", 1, 64, *[0] * 14) + b"\xf1\0"
"""16 bytes."""
DAMAGED = {
    "a value": EXPLICIT + LIE,
    "a value without a type": IMPLICIT + PLAIN_LIE,
    "a short value": EXPLICIT + struct.pack("<HH2sH", 8, 0x60, b"CS", 0xFFFE) + b"CT",
    "file meta information": typed(0x00020102, b"OB", HUGE),
    "pixels": EXPLICIT + image() + typed(PIXELS, b"OW", HUGE, bytes(8)),
    "a sequence": EXPLICIT + typed(SEQUENCE, b"SQ", HUGE, plain(ITEM, 0)),
    "an item": EXPLICIT + typed(SEQUENCE, b"SQ", NO_LENGTH, plain(ITEM, HUGE)),
    "a value in items of some length": EXPLICIT + typed(SEQUENCE, b"SQ", 24, plain(ITEM, 16, LIE)),
    "a value in items of no length": EXPLICIT + typed(SEQUENCE, b"SQ", NO_LENGTH, plain(ITEM, NO_LENGTH, LIE)),
    "a value in a sequence of unknown type": EXPLICIT + typed(PRIVATE, b"UN", NO_LENGTH, plain(ITEM, 12, PLAIN_LIE)),
    "a value that may be a sequence": EXPLICIT + typed(PRIVATE, b"UN", 20, plain(ITEM, 12, PLAIN_LIE)),
    "a value in a sequence without a type": IMPLICIT + plain(SEQUENCE, 20, plain(ITEM, 12, PLAIN_LIE)),
    "compressed pixels": EXPLICIT + image() + typed(PIXELS, b"OB", NO_LENGTH, plain(ITEM, 0) + plain(ITEM, HUGE)),
    "compressed pixels without an end": EXPLICIT + image() + typed(PIXELS, b"OB", NO_LENGTH, plain(ITEM, 0)),
    "a value that may be an icon": EXPLICIT + typed(0x60031110, b"UN", 20, plain(ITEM, 12, PLAIN_LIE)),
    "a sequence without an end": EXPLICIT + typed(SEQUENCE, b"SQ", NO_LENGTH, plain(ITEM, 0)),
    "a sequence that ends within an item": EXPLICIT + typed(SEQUENCE, b"SQ", 10, plain(ITEM, 0) + b"12"),
    "a length that GDCM takes for another": IMPLICIT + plain(PRIVATE, 13, bytes(13)),
    "padding that is none": EXPLICIT + bytes(8) + LIE,
    "a type that GDCM does not know": EXPLICIT + typed(PRIVATE, b"ZZ", 4, b"1234"),
    "sequences of another byte order": IMPLICIT + plain(SEQUENCE, 8, b"\xff\xfe\xe0\x00" + bytes(4)),
    "a deflated value": DEFLATED + zlib.compressobj(wbits=-15).compress(b"") + zlib.compress(LIE)[2:-4],
    "deflated data without measure": DEFLATED + zlib.compress(bytes(1 << 25))[2:-4],
    "deflated data without an end": DEFLATED + unended(image() + RAW),
    "an overlay without data": EXPLICIT + image() + overlay() + RAW,
    "an overlay without data or pixels": EXPLICIT + overlay() + typed(0x7FE00008, b"OF", 4, b"1234"),
    "an overlay without data in compressed pixels": RUNS + image() + overlay() + fragments(RUN),
    "an overlay of little data": EXPLICIT + image() + overlay(data=typed(0x60023000, b"OW", 8, b"12345678")) + RAW,
    "an overlay of many frames": EXPLICIT
    + image()
    + number(0x60000010, 8)
    + number(0x60000011, 8)
    + text(0x60000015, b"2000")
    + typed(0x60003000, b"OW", 8, b"12345678")
    + RAW,
    "an overlay of some frames": EXPLICIT + image() + overlay(frames=b"-1", data=typed(0x60023000, b"OW", 2, b"12")),
    "pixels without rows": EXPLICIT + number(0x00280011, 4) + RAW,
    "rows after the pixels": EXPLICIT + number(0x00280011, 4) + RAW + number(0x00280010, 60_000),
    "frames after the pixels": EXPLICIT
    + number(0x00280010, 4)
    + number(0x00280011, 4)
    + RAW
    + text(0x00280008, b"60000 "),
    "rows that come twice": EXPLICIT + number(0x00280010, 4) + number(0x00280010, 60_000) + number(0x00280011, 4) + RAW,
    "rows of an icon after its pixels": EXPLICIT
    + typed(0x00880200, b"SQ", NO_LENGTH, plain(ITEM, NO_LENGTH, typed(PIXELS, b"OB", 2, b"12")))
    + number(0x00280010, 60_000)
    + plain(ITEM_END, 0)
    + plain(ITEMS_END, 0),
    "rows without a type that are a sequence": IMPLICIT + plain(0x00280010, 20, plain(ITEM, 12, PLAIN_LIE)),
    "frames that are none": EXPLICIT + image(frames=b"0 ", rows=60_000) + RAW,
    "frames of many digits": EXPLICIT + image(frames=b"60000" + b" " * 301) + RAW,
    "a sequence whose end has a length": EXPLICIT + typed(SEQUENCE, b"SQ", NO_LENGTH, plain(ITEMS_END, 8, bytes(8))),
    "fragments whose end has a length": RUNS + image() + fragments(RUN)[:-4] + struct.pack("<L", 8) + bytes(8),
    "fragments of nothing": RUNS + image() + fragments(RUN, b""),
    "fragments of two bytes": RUNS + image() + fragments(RUN, b"12"),
    "fragments without end": RUNS + image() + fragments(RUN, *[b"1234"] * 5000),
    "JPEG 2000 frames of two fragments each": JPEG_2000
    + image(frames=b"2 ")
    + fragments(*[b"\xff\x4f\xff\x51", b"1234"] * 2),
    "fewer fragments than frames": RUNS + image(frames=b"3 ") + fragments(RUN, RUN),
    "run lengths without a header": RUNS + image() + fragments(bytes(60)),
    "run lengths of too many bytes": RUNS + image() + fragments(RUN[:-2] + b"\x81\0"),
    "run lengths of too few bytes": RUNS + image() + fragments(RUN[:-2] + b"\xf2\0"),
    "sequences in one another": EXPLICIT + (typed(SEQUENCE, b"SQ", NO_LENGTH) + plain(ITEM, NO_LENGTH)) * 100_000,
}
READ_SMALL = """
import sys
from s2vnet.utils.memory import reset_peak_memory, peak_memory_mb
from s2vnet.errors import InputError
from s2vnet.io.files import read_geometry, read_image
import SimpleITK
reset_peak_memory()
before = peak_memory_mb()
for folder in sys.argv[1:]:
    for read in (read_geometry, read_image):
        try:
            read(folder)
        except InputError as error:
            assert "not a readable DICOM image" in str(error), error
        else:
            raise AssertionError(folder)
print(peak_memory_mb() - before)
"""


def liars(folder: Path) -> dict[str, bytes]:
    """Slices whose elements have the lengths that they say, and whose pixels claim more than there is."""
    whole = slice_of(folder)
    large = struct.pack(">HH", 30_000, 30_000)
    *_, jpeg_ls, jpeg_2000, in_file = encodings(whole)
    made = {}
    for name, data in (("JPEG 2000", jpeg_2000), ("JPEG 2000 in a file", in_file)):
        at = data.index(b"\xff\x4f\xff\x51") + 8
        made[name] = data[:at] + struct.pack(">LL", 12_000, 12_000) + data[at + 8 :]
        made[f"{name}, tiles"] = data[: at + 16] + struct.pack(">LL", 0, 1) + data[at + 24 :]
    for name, layers, precincts in (("precincts", b"\0\1", b"\x11" * 6), ("layers", b"\xff\xff", b"")):
        made[f"JPEG 2000, {name}"] = recoded(jpeg_2000, layers, precincts)
    at = jpeg_ls.index(b"\xff\xf7") + 5
    made["JPEG-LS"] = jpeg_ls[:at] + large + jpeg_ls[at + 4 :]
    for progressive, marker in ((False, b"\xff\xc0"), (True, b"\xff\xc2")):
        write_jpeg(folder / "jpeg", whole, progressive=progressive)
        data = (folder / "jpeg").read_bytes()
        at = data.index(marker + b"\0") + 5
        made[f"JPEG, progressive: {progressive}"] = data[:at] + large + data[at + 4 :]
    rows = struct.pack("<HH2sH", 0x28, 0x10, b"US", 2)
    made["rows"] = whole.replace(rows + b"\x10\0", rows + b"\0\x08")
    for name, data in (("icon", whole), ("icon of compressed pixels", jpeg_2000)):
        image, icon = pydicom.dcmread(io.BytesIO(data)), pydicom.Dataset()
        icon.Rows = icon.Columns = 65535
        icon.SamplesPerPixel, icon.PhotometricInterpretation, icon.PixelRepresentation = 1, "MONOCHROME2", 0
        icon.BitsAllocated, icon.BitsStored, icon.HighBit = 8, 8, 7
        icon.PixelData = bytes(64)
        icon["PixelData"].VR = "OB"
        image.IconImageSequence = [icon]
        image.save_as(folder / "icon")
        made[name] = (folder / "icon").read_bytes()
    return made


def recoded(slice_: bytes, layers: bytes, precincts: bytes) -> bytes:
    """A JPEG 2000 slice whose style of coding says something else."""
    image = pydicom.dcmread(io.BytesIO(slice_))
    frame = next(pydicom.encaps.generate_frames(image.PixelData, number_of_frames=1))
    at = frame.index(b"\xff\x52")
    length = int.from_bytes(frame[at + 2 : at + 4], "big")
    old = frame[at + 4 : at + 2 + length]
    new = bytes([old[0] | bool(precincts)]) + old[1:2] + layers + old[4:10] + precincts
    coding = struct.pack(">HH", 0xFF52, 2 + len(new)) + new
    image.PixelData = pydicom.encaps.encapsulate([frame[:at] + coding + frame[at + 2 + length :]])
    image["PixelData"].is_undefined_length = True
    with io.BytesIO() as file:
        image.save_as(file)
        return file.getvalue()


def slice_of(folder: Path) -> bytes:
    folder.mkdir()
    write_series(folder, VOXELS)
    return next(folder.iterdir()).read_bytes()


def test_no_claim_takes_memory(tmp_path: Path) -> None:
    made = {name: bytes(128) + b"DICM" + CLASS + data for name, data in DAMAGED.items()} | liars(tmp_path / "liars")
    for name, data in made.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.dcm").write_bytes(data)
    folders = [str(tmp_path / name) for name in made]
    done = subprocess.run([sys.executable, "-c", READ_SMALL, *folders], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 200  # MiB; they claim up to 4 GB


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_wrong_is_told_in_a_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.dcm").write_bytes(bytes(128) + b"DICM" + CLASS + DAMAGED[name])
    with pytest.raises(InputError, match=r"^[^\n]{5,100}$"):
        read_header(tmp_path / "a.dcm")
    assert is_image(tmp_path / "a.dcm")


def test_every_encoding_of_a_slice_is_read(tmp_path: Path) -> None:
    (tmp_path / "slice").mkdir()
    write_series(tmp_path / "slice", VOXELS)
    (file,) = (tmp_path / "slice").iterdir()
    expected, syntaxes = read_image(tmp_path / "slice").data, set()
    for data in encodings(file.read_bytes()):
        file.write_bytes(data)
        syntaxes.add(pydicom.dcmread(file).file_meta.TransferSyntaxUID.name)
        np.testing.assert_array_equal(read_image(tmp_path / "slice").data, expected)
        header = read_header(file)
        assert header.has_pixels
        assert header.values[MODALITY] == "CT"
        assert header.values[SERIES_UID] == pydicom.dcmread(file).SeriesInstanceUID
        for keep in (300, 0.5, -12):  # no part of it is a file
            file.write_bytes(data[: int(len(data) * keep) if 0 < keep < 1 else int(keep)])
            with pytest.raises(InputError, match=r"dcm: not a readable DICOM image, truncated or damaged"):
                read_geometry(tmp_path / "slice")
    assert len(syntaxes) == 7


@pytest.mark.parametrize("progressive", [False, True])
def test_a_lossy_jpeg_is_read(tmp_path: Path, progressive: bool) -> None:
    whole = slice_of(tmp_path / "slice")
    (tmp_path / "jpeg").mkdir()
    write_jpeg(tmp_path / "jpeg" / "a.dcm", whole, progressive=progressive)
    expected = np.broadcast_to(8.0 * np.arange(16)[:, None], (16, 16))
    np.testing.assert_allclose(read_image(tmp_path / "jpeg").data[0, :, :, 0], expected, atol=2)


def test_what_archives_add_is_passed_over(tmp_path: Path) -> None:
    write_series(tmp_path, VOXELS)
    (file,) = tmp_path.iterdir()
    whole, expected = file.read_bytes(), read_image(tmp_path).data
    pixels = whole.index(struct.pack("<HH", 0x7FE0, 0x10))
    items_with_types = plain(ITEM, 10, struct.pack("<HH2sH", 8, 0x60, b"CS", 2) + b"CT")
    private = typed(0x77771010, b"UN", len(items_with_types), items_with_types)
    trailing = typed(0xFFFCFFFC, b"OB", 4, b"1234")
    for data in (whole + bytes(64), whole + bytes(3), whole + trailing, whole[:pixels] + private + whole[pixels:]):
        file.write_bytes(data)
        np.testing.assert_array_equal(read_image(tmp_path).data, expected)


def test_sequences_of_a_real_depth_are_walked(tmp_path: Path) -> None:
    for depth, fits in ((MAX_DEPTH, True), (MAX_DEPTH + 1, False)):
        image = pydicom.Dataset()
        for _ in range(depth):
            outer = pydicom.Dataset()
            outer.ReferencedStudySequence = [image]
            image = outer
        image.save_as(tmp_path / "a", implicit_vr=False, little_endian=True)
        (tmp_path / "a").write_bytes(bytes(128) + b"DICM" + EXPLICIT + (tmp_path / "a").read_bytes())
        if fits:
            assert not read_header(tmp_path / "a").has_pixels
        else:
            with pytest.raises(InputError, match=f"more than {MAX_DEPTH} nested sequences"):
                read_header(tmp_path / "a")


def test_walking_a_slice_takes_little_time(tmp_path: Path) -> None:
    write_series(tmp_path, np.zeros((512, 512, 1), np.int16))
    (file,) = tmp_path.iterdir()
    image = pydicom.dcmread(file)
    for number in range(300):  # as many as scanners write
        image.add_new(0x00091000 + number, "LO", "a value")
    image.save_as(file)
    started = time.process_time()
    for _ in range(20):
        read_header(file)
    assert (time.process_time() - started) / 20 < 0.01  # 1 ms, and machines differ


def test_overlays_are_passed_over(tmp_path: Path) -> None:
    """Those with data, and those that old images have in bits of their pixels that they do not use."""
    write_series(tmp_path, VOXELS)
    (file,) = tmp_path.iterdir()
    whole, expected = file.read_bytes(), read_image(tmp_path).data
    pixels = whole.index(struct.pack("<HH", 0x7FE0, 0x10))
    for rows, fits in ((16, True), (17, False)):
        sizes = number(0x60000010, rows) + number(0x60000011, 16)
        in_pixels = number(0x60000100, 16) + number(0x60000102, 12)
        for made in (sizes + in_pixels, sizes + typed(0x60003000, b"OW", 32, bytes(32))):
            file.write_bytes(whole[:pixels] + made + whole[pixels:])
            if fits:
                np.testing.assert_array_equal(read_image(tmp_path).data, expected)
            else:
                with pytest.raises(InputError, match="an overlay of 256 bits where 272 are claimed"):
                    read_image(tmp_path)


@pytest.mark.parametrize(
    ("module", "name", "limit"),
    [(elements, "MAX_ELEMENTS", 30), (validate, "MAX_INFLATED_NBYTES", 500), (pixel_data, "MAX_FRAGMENTS", 1)],
)
def test_the_work_on_a_file_is_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, limit: int
) -> None:
    write_series(tmp_path, VOXELS)
    whole = next(tmp_path.iterdir()).read_bytes()
    *_, deflated, runs, _, _, _ = encodings(whole)
    jpeg = tmp_path / "jpeg"
    write_jpeg(jpeg, whole)
    image = pydicom.dcmread(jpeg)
    frame = next(pydicom.encaps.generate_frames(image.PixelData, number_of_frames=1))
    image.PixelData = pydicom.encaps.encapsulate([frame], fragments_per_frame=2)
    image["PixelData"].is_undefined_length = True
    image.save_as(jpeg)
    contents = {"MAX_ELEMENTS": runs, "MAX_INFLATED_NBYTES": deflated, "MAX_FRAGMENTS": jpeg.read_bytes()}
    (tmp_path / "a").write_bytes(contents[name])
    read_header(tmp_path / "a")
    monkeypatch.setattr(module, name, limit)
    with pytest.raises(InputError, match=f"(more than|beyond) {limit} "):
        read_header(tmp_path / "a")


def test_frames_are_walked(tmp_path: Path) -> None:
    write_frames(tmp_path / "a", np.zeros((4, 3, 200), np.int16), np.arange(200)[:, None] * (0, 0, 2.5))
    assert read_header(tmp_path / "a").values[MODALITY] == "MR"
