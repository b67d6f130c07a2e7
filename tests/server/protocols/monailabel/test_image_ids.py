"""Ids by which clients name images."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from s2vnet.errors import InputError
from s2vnet.server.protocols.monailabel.image_ids import ImageIds
from s2vnet.server.scan_library import ScanLibrary


def test_a_series_in_any_folder_is_found_by_its_uid(sent_series: tuple[Path, bytes], tmp_path: Path) -> None:
    series, _ = sent_series
    data = tmp_path / "data"
    shutil.copytree(series, data / "Doe" / "CT 1")
    ids = ImageIds(ScanLibrary(data, tmp_path / "sent"), None)
    uid = ids.attributes("Doe/CT 1")["SeriesInstanceUID"]
    assert ids.resolve(uid) == "Doe/CT 1"
    shutil.move(data / "Doe" / "CT 1", data / "moved")
    assert ids.resolve(uid) == "moved"
    for unknown in (uid + ".1", "1.2.3", "", ".", "Doe"):
        with pytest.raises(InputError, match="no such scan"):
            ids.resolve(unknown)


def test_a_series_that_was_found_is_not_searched_again(
    sent_series: tuple[Path, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OHIF names a series by its UID at every click."""
    shutil.copytree(sent_series[0], tmp_path / "data" / "CT")
    scans = ScanLibrary(tmp_path / "data", tmp_path / "sent")
    ids = ImageIds(scans, None)
    uid = ids.attributes("CT")["SeriesInstanceUID"]
    assert ids.resolve(uid) == "CT"
    monkeypatch.delattr(ScanLibrary, "list_scans")
    assert ids.resolve(uid) == "CT"


def test_ohif_segments_by_uid(serve: Callable[..., TestClient], sent_series: tuple[Path, bytes]) -> None:
    series, _ = sent_series
    client = serve(data=series.parent)
    uid = client.post("/activelearning/first", json={}).json()["SeriesInstanceUID"]
    answers = [client.post(f"/infer/automatic?image={image}&output=image") for image in (uid, "series")]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].content == answers[1].content


@pytest.mark.parametrize(
    ("name", "ending"), [("a/b.nii.gz", ".nii.gz"), ("x.y.nii", ".nii"), ("Q.NRRD", ".nrrd"), ("ü 1.mha", ".mha")]
)
def test_download_names_are_file_names_with_the_ending(tmp_path: Path, name: str, ending: str) -> None:
    for folder in ("data", "data/other"):
        (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / name).write_bytes(b"")
    ids = ImageIds(ScanLibrary(tmp_path / "data", tmp_path / "sent"), None)
    names = {ids.download_name(name), ids.download_name(f"other/{name}")}
    assert len(names) == 2
    assert all(each.endswith(ending) and "/" not in each and " " not in each for each in names)
