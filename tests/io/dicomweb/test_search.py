"""Series are chosen by modality, date of the study and description."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from orthanc_server import Orthanc

from s2vnet.errors import InputError

pytest.importorskip("dicomweb_client", reason="dicomweb-client (the extra dicomweb) is not installed")

from s2vnet.io.dicomweb.address import parse_address
from s2vnet.io.dicomweb.archive import Archive
from s2vnet.io.dicomweb.queries import Query
from s2vnet.io.dicomweb.search import FoundSeries, find_series, require_series

STUDIES = [
    ("20251231", "CT", "Liver"),
    ("20260101", "CT", "LIVER venous"),
    ("20260301", "MR", "liver"),
    ("", "CT", "thorax"),
    ("20260301", "SEG", "liver"),
]


@pytest.fixture
def series(orthanc: Orthanc, tmp_path: Path, write_series: Callable[..., None]) -> list[Any]:
    """Headers of a series of STUDIES each, of two images."""
    headers = []
    for number, values in enumerate(STUDIES):
        folder = tmp_path / str(number)
        folder.mkdir()
        write_series(folder, np.zeros((3, 4, 2), np.int16))
        for file in folder.iterdir():
            image = pydicom.dcmread(file)
            image.StudyDate, image.Modality, image.SeriesDescription = values
            image.PatientName = "Secret^Name"
            image.save_as(file)
        orthanc.add(folder.iterdir())
        headers.append(image)
    return headers


def test_series_are_chosen_by_a_query(orthanc: Orthanc, series: list[Any]) -> None:
    address = parse_address(orthanc.address)

    def found(**conditions: Any) -> set[int]:
        uids = {each.uid for each in find_series(Archive(address), address, Query(**conditions))}
        return {number for number, header in enumerate(series) if header.SeriesInstanceUID in uids}

    assert found() == {0, 1, 2, 3}
    assert found(modality="ct") == found(modality="CT") == {0, 1, 3}
    assert found(since=date(2026, 1, 1)) == {1, 2}
    assert found(until=date(2026, 1, 1)) == {0, 1}
    assert found(since=date(2026, 1, 1), until=date(2026, 2, 1)) == {1}
    assert found(description="liver", modality="CT", since=date(2026, 1, 1)) == {1}
    assert found(modality="PT") == found(modality="SEG") == set()


def test_a_study_or_series_by_its_address(orthanc: Orthanc, series: list[Any]) -> None:
    header = series[1]
    study, uid = str(header.StudyInstanceUID), str(header.SeriesInstanceUID)
    expected = FoundSeries(study, uid, "CT", "20260101", "LIVER venous", 2)
    for tail in (f"/studies/{study}", f"/studies/{study}/series/{uid}", f"/series/{uid}"):
        address = parse_address(orthanc.address + tail)
        assert list(find_series(Archive(address), address)) == [expected]
        if tail.endswith(uid):
            assert require_series(Archive(address), address) == expected
    for tail in ("", "/series/1.2.3", f"/studies/1.2.3/series/{uid}"):
        address = parse_address(orthanc.address + tail)
        with pytest.raises(InputError, match="no series of images at this address") as missing:
            require_series(Archive(address), address)
        assert "Secret" not in str(missing.value)
