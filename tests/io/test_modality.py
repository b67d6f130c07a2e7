"""Modality of DICOM series by the header of their images."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from s2vnet.io.modality import read_modality


@pytest.mark.parametrize("modality", ["CT", "MR", "PT", ""])
def test_the_header_states_the_modality(write_series: Callable[..., None], tmp_path: Path, modality: str) -> None:
    series = tmp_path / "series"
    series.mkdir()
    write_series(series, np.zeros((8, 8, 3)))
    for file in series.iterdir():
        header = pydicom.dcmread(file)
        header.Modality = modality
        header.save_as(file)
    (series / "notes.txt").write_text("no image")
    shutil.make_archive(str(series), "zip", series)
    assert read_modality(series) == read_modality(tmp_path / "series.zip") == (modality or None)
    assert read_modality(series / "notes.txt") is None
    (tmp_path / "empty").mkdir()
    assert read_modality(tmp_path / "empty") is None
