"""Segmentation requests of Slicer's and OHIF's plugins, and sessions of uploaded scans."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from monailabel_requests import parts_of, slicer_form

from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.io.files import read_image, read_labels
from s2vnet.prompts import Point

CLICKS = {"right": [[5, 9, 4], [6, 7, 8]], "background": [[11, 9, 9]], "left part": []}


def test_slicer_segments_and_corrects_by_clicks(client: TestClient, own: Session, tmp_path: Path) -> None:
    for model, clicks in (("automatic", {}), ("clicks", CLICKS), ("clicks", {"right": [[5, 9, 4]]}), ("clicks", {})):
        params = {"label": "right", "client_id": "user-xyz", **clicks}
        form = slicer_form({"params": json.dumps(params)}, {})
        answer = client.post(f"/monailabel/infer/{model}?image=one.nii.gz", **form)
        assert answer.status_code == 200, answer.text
        found, name, content = parts_of(answer)
        assert found["label_names"] == {"background": 0, "left part": 1, "right": 2}
        (tmp_path / name).write_bytes(content)
        own.reset()
        ids = found["label_names"]
        own.add(*(Point(class_id=ids[k], voxel=tuple(v)) for k, places in clicks.items() for v in places))
        labels = read_labels(tmp_path / name)
        np.testing.assert_array_equal(labels.data, own.labels)
        assert labels.geometry.same_grid(own.geometry)


def test_ohif_receives_nrrd(client: TestClient, own: Session, tmp_path: Path) -> None:
    params = {
        "result_extension": ".nrrd",
        "result_dtype": "uint8",
        "result_compress": False,
        "restore_label_idx": False,
    }
    answer = client.post(
        "/monailabel/infer/automatic",
        params={"image": "one.nii.gz", "output": "image"},
        data={"params": json.dumps(params)},
    )
    (tmp_path / "labels.nrrd").write_bytes(answer.content)
    np.testing.assert_array_equal(read_labels(tmp_path / "labels.nrrd").data, own.labels)
    text = client.post("/monailabel/infer/automatic?image=one.nii.gz&output=json")
    assert text.json()["label_names"]["right"] == 2


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


def test_a_zipped_series_is_returned_as_dicom_seg(
    client: TestClient, segmenter: Segmenter, tmp_path: Path, sent_series: tuple[Path, bytes]
) -> None:
    pytest.importorskip("highdicom", reason="highdicom (the extra dicom) is not installed")
    from s2vnet.io.dicom.seg import read_segmentation

    series, packed = sent_series
    form = slicer_form({"params": "{}"}, {"file": ("Doe.zip", packed)})
    answer = client.post("/monailabel/infer/automatic?output=dicom_seg", **form)
    assert answer.status_code == 200, answer.text
    (tmp_path / "labels.dcm").write_bytes(answer.content)
    expected = segmenter.segment(read_image(series)).labels().data
    np.testing.assert_array_equal(read_segmentation(tmp_path / "labels.dcm", series)[0].data, expected)
    assert list((tmp_path / "state" / "sent").iterdir()) == []


def test_errors_of_dicom_seg_name_the_scan_as_the_client_does(
    serve: Callable[..., TestClient], tmp_path: Path, write_series: Callable[..., None]
) -> None:
    pytest.importorskip("highdicom", reason="highdicom (the extra dicom) is not installed")
    import pydicom

    series = tmp_path / "scans" / "some"
    series.mkdir(parents=True)
    write_series(series, np.random.default_rng(0).integers(0, 900, (18, 20, 6)).astype(np.int16))
    for file in series.iterdir():
        image = pydicom.dcmread(file)
        del image.StudyInstanceUID
        image.save_as(file)
    client, form = serve(data=tmp_path / "scans"), slicer_form({"params": "{}"}, {})
    answer = client.post("/monailabel/infer/automatic?image=some&output=dicom_seg", **form)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("some: images without StudyInstanceUID")


@pytest.mark.parametrize(
    ("path", "params", "message"),
    [
        ("clicks?image=one.nii.gz", {"spleen": [[1, 1, 1]]}, "no class and no parameter 'spleen'"),
        ("clicks?image=one.nii.gz", {"right": [[1, 1]]}, "field required|clicks are given as"),
        ("clicks?image=one.nii.gz", {"right": [[99, 1, 1]]}, "reaches outside the volume"),
        ("clicks?image=one.nii.gz", [1], "not a JSON object"),
        ("automatic?image=../one.nii.gz", {}, "no such scan"),
        ("automatic?image=", {}, "no such scan"),
        ("automatic?image=one.nii.gz", {"result_extension": ".exe"}, "no format"),
    ],
)
def test_invalid_requests_are_refused(client: TestClient, path: str, params: Any, message: str) -> None:
    answer = client.post(f"/monailabel/infer/{path}", **slicer_form({"params": json.dumps(params)}, {}))
    assert answer.status_code in (404, 422)
    assert any(text in str(answer.json()["detail"]) for text in message.split("|"))
