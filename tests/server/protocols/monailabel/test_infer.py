"""Segmentation requests of Slicer's and OHIF's plugins, and sessions of uploaded scans."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from monailabel_requests import parts_of, slicer_form

from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.io.files import read_image, read_labels, write_labels
from s2vnet.io.geometry import LabelMap
from s2vnet.prompts import Point, Scribble
from s2vnet.server.client_watch import ClientGone, ClientWatch

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


@pytest.mark.parametrize(
    "params",
    [
        {"reset_state": True},
        {"roi": [1, 5, 1, 5, 1, 5]},
        {"label": "right", "slice": None, "device": "NVIDIA:0", "anything": {"else": [1]}},
    ],
)
def test_unknown_parameters_are_ignored(client: TestClient, own: Session, params: dict[str, Any]) -> None:
    form = slicer_form({"params": json.dumps({**CLICKS, **params})}, {})
    answer = client.post("/monailabel/infer/clicks?image=one.nii.gz&output=json", **form)
    assert answer.status_code == 200, answer.text
    assert answer.json()["label_names"]["right"] == 2


def test_clicks_between_voxels_are_rounded(client: TestClient, own: Session, tmp_path: Path) -> None:
    contents = []
    for click in ([5, 9, 4], [4.6, 9.4, 3.5]):
        form = slicer_form({"params": json.dumps({"right": [click]})}, {})
        contents.append(client.post("/monailabel/infer/clicks?image=one.nii.gz&output=image", **form).content)
    assert contents[0] == contents[1]


def test_an_object_is_segmented_by_clicks_inside_and_outside(client: TestClient, own: Session, tmp_path: Path) -> None:
    """As MITK sends them; and 3D Slicer, which names the class."""
    inside, outside = (5, 9, 4), (11, 9, 9)
    for chosen, class_id, label in (({}, 3, "object"), ({"label": "left part"}, 1, "left part"), ({}, 3, "object")):
        params = {"foreground": [inside], "background": [outside], **chosen}
        form = slicer_form({"params": json.dumps(params)}, {})
        found, name, content = parts_of(client.post("/infer/object?image=one.nii.gz", **form))
        own.reset()
        if not chosen:
            assert own.add_class("object") == class_id
        own.add(Point(class_id=class_id, voxel=inside), Point(class_id=class_id, voxel=outside, positive=False))
        (tmp_path / name).write_bytes(content)
        np.testing.assert_array_equal(read_labels(tmp_path / name).data, own.labels == class_id)
        assert found["label_names"] == {label: 1}


def test_scribbles_are_prompts_of_the_selected_class(client: TestClient, own: Session, tmp_path: Path) -> None:
    """In 3D Slicer's label map, segments are numbered in the order of `label_info`."""
    drawing = np.zeros(own.geometry.shape, np.uint8)
    drawing[2:9, 2:9, 2] = 1  # a segment that is no scribble
    drawing[5, 8:11, 4], drawing[11, 8:11, 9] = 4, 3
    write_labels(tmp_path / "scribbles.nii.gz", LabelMap(drawing, own.geometry))
    names = ["left part", "right", "background_scribbles", "foreground_scribbles"]
    label_info = [{"name": name, "id": number} for number, name in enumerate(names, 1)]
    params = json.dumps({"label_info": label_info, "selected_label_name": "right", "roi": []})
    files = {"label": ("scribbles.nii.gz", (tmp_path / "scribbles.nii.gz").read_bytes())}
    answer = client.post("/monailabel/infer/scribbles?image=one.nii.gz", **slicer_form({"params": params}, files))
    assert answer.status_code == 200, answer.text
    found, name, content = parts_of(answer)
    inside, outside = (tuple(map(tuple, np.argwhere(drawing == value).tolist())) for value in (4, 3))
    own.add(Scribble(class_id=2, voxels=inside), Scribble(class_id=2, voxels=outside, positive=False))
    (tmp_path / name).write_bytes(content)
    np.testing.assert_array_equal(read_labels(tmp_path / name).data, own.labels == 2)
    assert found["label_names"] == {"right": 1}
    refused = client.post("/monailabel/infer/clicks?image=one.nii.gz", **slicer_form({"params": params}, files))
    assert "the model scribbles does" in refused.json()["detail"]
    nothing = slicer_form({"params": json.dumps({"selected_label_name": "right"})}, files)
    assert "no scribbles" in client.post("/monailabel/infer/scribbles?image=one.nii.gz", **nothing).json()["detail"]


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_voxels_have_the_requested_type(client: TestClient, tmp_path: Path, dtype: str) -> None:
    params = json.dumps({"result_extension": ".nrrd", "result_dtype": dtype})
    answer = client.post("/infer/automatic?image=one.nii.gz&output=image", data={"params": params})
    (tmp_path / "labels.nrrd").write_bytes(answer.content)
    assert read_labels(tmp_path / "labels.nrrd").data.dtype == dtype


def test_a_saved_result_is_an_original_label(client: TestClient, own: Session, tmp_path: Path) -> None:
    """With the model's class ids, also where the response contains one object."""
    form = slicer_form({"params": json.dumps({"foreground": [[5, 9, 4]], "label": "right", "save_label": True})}, {})
    _, name, content = parts_of(client.post("/monailabel/infer/object?image=one.nii.gz", **form))
    (tmp_path / name).write_bytes(content)
    saved = client.get("/monailabel/datastore/label?label=one.nii.gz&tag=original")
    (tmp_path / "saved.nii.gz").write_bytes(saved.content)
    np.testing.assert_array_equal(read_labels(tmp_path / "saved.nii.gz").data, 2 * read_labels(tmp_path / name).data)
    info = client.get("/monailabel/datastore/?output=all").json()["objects"]["one.nii.gz"]["labels"]["original"]["info"]
    assert info["params"]["label_names"] == {"right": 1}


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
        image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = ""
        image.save_as(file)
    client, form = serve(data=tmp_path / "scans"), slicer_form({"params": "{}"}, {})
    answer = client.post("/monailabel/infer/automatic?image=some&output=dicom_seg", **form)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("some: images without SOPClassUID")


@pytest.mark.parametrize(
    ("path", "params", "message"),
    [
        ("clicks?image=one.nii.gz", {"spleen": [[1, 1, 1]]}, "clicks of 'spleen', which is no class"),
        ("clicks?image=one.nii.gz", {"right": [[1, 1]]}, "field required|clicks are given as"),
        ("clicks?image=one.nii.gz", {"right": [[99, 1, 1]]}, "reaches outside the volume"),
        ("clicks?image=one.nii.gz", {"right": [[1, 1, float("inf")]]}, "clicks are given as"),
        ("clicks?image=one.nii.gz", {"right": 7}, "clicks are given as"),
        ("clicks?image=one.nii.gz", [1], "not a JSON object"),
        ("object?image=one.nii.gz", {"background": [[1, 1, 1]]}, "a click inside it"),
        ("object?image=one.nii.gz", {"foreground": [[1, 1, 1]], "save_label": True}, "an object of no class"),
        ("object?image=one.nii.gz", {"foreground": [[1, 1]]}, "clicks are given as"),
        ("scribbles?image=one.nii.gz", {"selected_label_name": "right"}, "need a label map"),
        ("unknown?image=one.nii.gz", {}, "no such model"),
        ("automatic?image=../one.nii.gz", {}, "no such scan"),
        ("automatic?image=", {}, "no such scan"),
        ("automatic?image=one.nii.gz", {"result_extension": ".exe"}, "no format"),
    ],
)
def test_invalid_requests_are_refused(client: TestClient, path: str, params: Any, message: str) -> None:
    answer = client.post(f"/monailabel/infer/{path}", **slicer_form({"params": json.dumps(params)}, {}))
    assert answer.status_code in (404, 422)
    assert any(text in str(answer.json()["detail"]) for text in message.split("|"))


def test_a_scan_of_a_client_that_left_before_its_turn_is_deleted(
    client: TestClient, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_: ClientWatch) -> None:
        raise ClientGone("the client has closed the connection")

    monkeypatch.setattr(ClientWatch, "require", gone)
    form = slicer_form({"params": "{}"}, {"file": ("a.nii.gz", (data / "one.nii.gz").read_bytes())})
    assert client.post("/monailabel/infer/automatic", **form).status_code == 422
    assert list((tmp_path / "state" / "sent").iterdir()) == []
