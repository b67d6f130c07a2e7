"""The next image to label, as 3D Slicer downloads and caches it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from fastapi.testclient import TestClient

from s2vnet.io.files import read_image


def test_equal_file_names_of_two_patients_are_not_mixed_up(
    serve: Callable[..., TestClient], data: Path, tmp_path: Path
) -> None:
    """Slicer caches downloads by name, and compares the checksum with that of a file it has."""
    folder = tmp_path / "patients"
    for patient, source in (("a", "one.nii.gz"), ("b", "more/two.nii.gz")):
        (folder / patient).mkdir(parents=True)
        shutil.copyfile(data / source, folder / patient / "image.nii.gz")
    client, names = serve(data=folder), {}
    for _ in range(20):
        sample = client.post("/monailabel/activelearning/random", json={"client_id": "user-xyz"}).json()
        content = client.get("/monailabel/datastore/image", params={"image": sample["id"]}).content
        assert sample["checksum"] == f"SHA256:{hashlib.sha256(content).hexdigest()}"
        assert sample["name"].endswith(".nii.gz")
        names[sample["id"]] = sample["name"]
    assert len(set(names.values())) == len(names) == 2
    info = client.get("/monailabel/datastore/image/info?image=a/image.nii.gz").json()
    assert info["strategy"]["random"]["client_id"] == "user-xyz"


def test_a_series_is_downloaded_as_one_file(
    serve: Callable[..., TestClient], sent_series: tuple[Path, bytes], tmp_path: Path
) -> None:
    series, _ = sent_series
    (series.parent / "a-damaged").mkdir()
    (series.parent / "a-damaged" / "1.dcm").write_bytes(b"no image")
    (series.parent / "series.zip").unlink()
    client = serve(data=series.parent)
    sample = client.post("/monailabel/activelearning/first", json={}).json()
    assert sample["id"] == "series"  # a damaged one is passed over
    assert sample["SeriesInstanceUID"]
    answer = client.get("/monailabel/datastore/image?image=series")
    assert sample["checksum"] == f"SHA256:{hashlib.sha256(answer.content).hexdigest()}"
    path = tmp_path / sample["name"]
    path.write_bytes(answer.content)
    sent, read = read_image(path), read_image(series)
    np.testing.assert_array_equal(sent.data, read.data)
    assert sent.geometry.same_grid(read.geometry)


def test_an_unknown_strategy_is_refused(client: TestClient) -> None:
    assert client.post("/monailabel/activelearning/unknown", json={}).status_code == 422
