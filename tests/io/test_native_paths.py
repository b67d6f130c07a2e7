"""Files of any name go through libraries that open files by themselves."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from s2vnet.io.dicom.rtstruct import write_rtstruct
from s2vnet.io.files import read_geometry, read_image, read_labels, write_labels
from s2vnet.io.geometry import LabelMap

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names are text there")
NAMES = [
    b"\xff\xe9",
    "Größe 山".encode(),
    b"a\nb",
    b"-x",
    b"[1]*?",
    b"a::b",
    b"x" * 240,
    b"'\"$(x)`;&|",
    b"..a",
    b"%41 \\",
]
"""Bytes of file names."""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ending", [".nii.gz", ".nhdr", ".mhd", ".mha"])
def test_labels_come_back_under_any_name(
    tmp_path: Path, name: bytes, ending: str, phantom: tuple[object, LabelMap]
) -> None:
    folder = tmp_path / os.fsdecode(name)
    folder.mkdir()
    path = folder / f"{os.fsdecode(name)}{ending}"
    write_labels(path, phantom[1])
    back = read_labels(path)
    np.testing.assert_array_equal(back.data, phantom[1].data)
    assert read_geometry(path).same_grid(phantom[1].geometry)
    assert len(list(folder.iterdir())) == (2 if ending in (".nhdr", ".mhd") else 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_series_is_read_from_a_folder_and_files_of_any_name(
    tmp_path: Path, name: bytes, write_series: Callable[..., None]
) -> None:
    voxels = np.random.default_rng(0).integers(0, 100, (5, 4, 3)).astype(np.int16)
    folder = tmp_path / os.fsdecode(name)
    folder.mkdir()
    write_series(folder, voxels)
    for file in list(folder.iterdir()):
        file.rename(folder / os.fsdecode((name + file.name.encode()).lstrip(b".")))
    image = read_image(folder)
    np.testing.assert_array_equal(image.data[0], voxels)
    labels = LabelMap((voxels > 50).astype(np.uint8), image.geometry)
    write_rtstruct(tmp_path / "labels.rtstruct.dcm", labels, {1: "a"}, {1: "#ffffff"}, folder)
