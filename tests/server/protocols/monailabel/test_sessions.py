"""Sessions of uploaded scans."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from fastapi.testclient import TestClient
from monailabel_requests import parts_of, slicer_form

from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.io.files import read_image, read_labels


def test_an_uploaded_scan_has_a_session(
    serve: Callable[..., TestClient], data: Path, own: Session, tmp_path: Path
) -> None:
    client = serve()
    content = (data / "one.nii.gz").read_bytes()
    made = client.put("/monailabel/session/", files={"files": ("Doe.nii.gz", content)}, data={"client_id": "x"}).json()
    name = made["session_id"]
    assert "Doe" not in json.dumps(made)
    assert client.get(f"/monailabel/session/{name}").json()["name"] == name
    client = serve()  # as after a restart
    form = slicer_form({"params": "{}"}, {})
    assert abs(client.get(f"/monailabel/session/{name}").json()["last_access_ts"] - time.time()) < 60
    _, file, labels = parts_of(client.post(f"/monailabel/infer/automatic?image=x&session_id={name}", **form))
    (tmp_path / file).write_bytes(labels)
    np.testing.assert_array_equal(read_labels(tmp_path / file).data, own.labels)
    assert client.delete(f"/monailabel/session/{name}").status_code == 200
    assert client.get(f"/monailabel/session/{name}").status_code == 404


def test_a_series_is_uploaded_file_by_file(
    client: TestClient, segmenter: Segmenter, sent_series: tuple[Path, bytes], tmp_path: Path
) -> None:
    series, _ = sent_series
    files = [("files", (file.name, file.read_bytes())) for file in series.iterdir()]
    name = client.put("/monailabel/session/", files=files).json()["session_id"]
    _, file, labels = parts_of(client.post(f"/monailabel/infer/automatic?image=x&session_id={name}"))
    (tmp_path / file).write_bytes(labels)
    expected = segmenter.segment(read_image(series)).labels()
    np.testing.assert_array_equal(read_labels(tmp_path / file).data, expected.data)
    assert client.get(f"/monailabel/session/{name}?image=true").content[:2] == b"PK"
    mixed = [*files, ("files", ("notes.txt", b"no image"))]
    assert "all files of one DICOM series" in client.put("/monailabel/session/", files=mixed).json()["detail"]
