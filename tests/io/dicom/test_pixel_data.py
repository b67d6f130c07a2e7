"""Pixel data has the size that the image's attributes state."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import dicom_of, write_frames
from PIL import Image

from s2vnet.errors import InputError
from s2vnet.io.dicom.validate import read_header
from s2vnet.io.files import read_geometry, read_image


def test_compressed_frames_may_lie_in_several_parts(tmp_path: Path) -> None:
    """PS3.5 A.4, with a table of frames or without."""
    pictures = np.random.default_rng(0).integers(0, 256, (4, 96, 96))  # GDCM takes no header that lies in two parts
    write_frames(tmp_path / "a.dcm", np.zeros((96, 96, 4), np.int16), np.arange(4)[:, None] * (0, 0, 2.5))
    image = pydicom.dcmread(tmp_path / "a.dcm")
    image.file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, 0
    packed = []
    for picture in pictures:
        with io.BytesIO() as file:
            Image.fromarray(picture.astype(np.uint8)).save(file, "JPEG", quality=100)
            packed.append(file.getvalue())
    large = packed[2]
    at = large.index(b"\xff\xc0") + 5
    large = large[:at] + struct.pack(">HH", 30_000, 30_000) + large[at + 4 :]
    for each in (1, 3):
        for has_table in (True, False):
            for frames, wrong in (
                (packed, ""),
                ([*packed[:2], large, packed[3]], "30000 rows"),
                ([*packed, large], "5 frames where 4 are claimed"),
                (packed[:3], "3 frames where 4 are claimed"),
            ):
                image.PixelData = pydicom.encaps.encapsulate(frames, fragments_per_frame=each, has_bot=has_table)
                image["PixelData"].is_undefined_length, image["PixelData"].VR = True, "OB"
                image.save_as(tmp_path / "a.dcm")
                if wrong:
                    with pytest.raises(InputError, match=wrong):
                        read_header(tmp_path / "a.dcm")
                else:
                    read = read_image(tmp_path).data[0].transpose(2, 1, 0)
                    np.testing.assert_allclose(read, pictures, atol=2)


def test_a_dicom_file_cannot_claim_more_than_it_holds(tmp_path: Path, write_series: Callable[..., None]) -> None:
    dicom_of(tmp_path, write_series, Rows=60000, Columns=60000)
    for read in (read_geometry, read_image):
        with pytest.raises(InputError, match="pixels of 24 bytes where 7200000000 are claimed"):
            read(tmp_path)
