"""The HTTP API gives the labels of a local session, to every client and viewer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from api_client import Screen, add_prompts, labels_of, live, open_session, ready
from fastapi.testclient import TestClient

from s2vnet.inference.label_writers import DICOM_FORMATS, LABEL_MAP_FORMATS
from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.io.files import read_image
from s2vnet.io.geometry import Volume
from s2vnet.prompts import Entry, Lock, Mask, Point
from s2vnet.server.api import FORMATS
from s2vnet.server.scheduler import CLICK as URGENT

CLICK = Point(class_id=2, voxel=(5, 9, 4))
OTHER = Point(class_id=1, voxel=(11, 9, 9))


def test_info_describes_model_and_classes(client: TestClient, segmenter: Segmenter) -> None:
    info = client.get("/api/info").json()
    (model,) = info["models"]
    assert [c["name"] for c in model["classes"]] == ["background", "left part", "right"]
    assert model["sha256"] == segmenter.sha256
    assert not info["token_needed"]
    assert client.get("/healthz").json()["status"] == "ok"


def test_scans_of_the_data_folder_are_listed(client: TestClient) -> None:
    assert [scan["id"] for scan in client.get("/api/scans").json()] == ["more/two.nii.gz", "one.nii.gz"]


def test_a_session_gives_the_labels_of_a_local_session(client: TestClient, local: Session, tmp_path: Path) -> None:
    name = open_session(client)
    np.testing.assert_array_equal(labels_of(client, name, tmp_path), local.labels)
    add_prompts(client, name, CLICK)
    local.add(CLICK)
    np.testing.assert_array_equal(labels_of(client, name, tmp_path, "nrrd"), local.labels)
    add_prompts(client, name, Lock(class_id=2), OTHER)
    local.add(Lock(class_id=2), OTHER)
    np.testing.assert_array_equal(labels_of(client, name, tmp_path, "mha"), local.labels)
    for op in ("undo", "undo", "redo", "reset", "undo"):
        client.post(f"/api/sessions/{name}/steps", json={"op": op})
        getattr(local, op)()
        np.testing.assert_array_equal(labels_of(client, name, tmp_path), local.labels)
    client.delete(f"/api/sessions/{name}/prompts/0")
    local.remove(0)
    np.testing.assert_array_equal(labels_of(client, name, tmp_path), local.labels)
    state = client.get(f"/api/sessions/{name}").json()
    assert (state["status"], state["entries"], state["can_undo"]) == ("ready", [], True)
    places = client.get(f"/api/sessions/{name}/suggestions").json()["places"]
    assert [tuple(place) for place in places] == local.places_to_check() != []


def test_the_image_is_returned(client: TestClient, bordered: Volume, tmp_path: Path) -> None:
    answer = client.get(f"/api/sessions/{open_session(client)}/image")
    (tmp_path / "image.nii.gz").write_bytes(answer.content)
    found = read_image(tmp_path / "image.nii.gz")
    np.testing.assert_array_equal(found.data, bordered.data)
    assert found.geometry.same_grid(bordered.geometry)


def test_a_portable_file_is_returned_unchanged(client: TestClient, data: Path, tmp_path: Path) -> None:
    voxels = (100 * read_image(data / "one.nii.gz").data[0]).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([-2.0, -2.0, 3.0, 1.0])), tmp_path / "plain.nii.gz")
    content = (tmp_path / "plain.nii.gz").read_bytes()
    name = open_session(client, client.post("/api/scans", files={"file": ("a.nii.gz", content)}).json()["id"])
    labels_of(client, name, tmp_path)
    assert client.get(f"/api/sessions/{name}/image").content == content


def test_a_saved_log_replays_in_another_session(client: TestClient, local: Session, tmp_path: Path) -> None:
    name = open_session(client)
    add_prompts(client, name, CLICK, OTHER)
    (tmp_path / "log.json").write_bytes(client.get(f"/api/sessions/{name}/log").content)
    local.replay(tmp_path / "log.json")
    np.testing.assert_array_equal(labels_of(client, name, tmp_path), local.labels)
    entries = json.loads((tmp_path / "log.json").read_text())["entries"]
    again = open_session(client)
    client.put(f"/api/sessions/{again}/prompts", json={"op": "replace", "entries": entries})
    np.testing.assert_array_equal(labels_of(client, again, tmp_path), local.labels)


def test_an_uploaded_scan_is_segmented(client: TestClient, data: Path, local: Session, tmp_path: Path) -> None:
    answer = client.post("/api/scans", files={"file": ("Doe^John.nii.gz", (data / "one.nii.gz").read_bytes())})
    assert answer.status_code == 201
    assert "Doe" not in answer.text
    name = open_session(client, answer.json()["id"])
    np.testing.assert_array_equal(labels_of(client, name, tmp_path), local.labels)


def test_labels_are_sent_slice_by_slice(client: TestClient, local: Session) -> None:
    name = open_session(client)
    with live(client, name) as socket:
        screen = Screen(socket).until(ready)
        np.testing.assert_array_equal(screen.labels, local.labels)
        parts = screen.parts
        click = Point(class_id=1 if local.labels[CLICK.voxel] == 2 else 2, voxel=CLICK.voxel)  # changes this voxel
        screen.send(op="add", entries=[click.model_dump(mode="json")])
        screen.until(lambda s: ready(s) and s.state["shown"] == 1)
        local.add(click)
        np.testing.assert_array_equal(screen.labels, local.labels)
        assert screen.parts > parts
        screen.send(op="undo")
        screen.until(lambda s: ready(s) and s.state["shown"] == 2)
        local.undo()
        np.testing.assert_array_equal(screen.labels, local.labels)


def test_all_viewers_receive_the_same_labels(client: TestClient) -> None:
    name = open_session(client)
    with (
        live(client, name) as first,
        live(client, name) as second,
    ):
        screens = [Screen(first).until(ready), Screen(second).until(ready)]
        screens[0].send(op="add", entries=[CLICK.model_dump(mode="json")])
        for screen in screens:
            screen.until(lambda s: ready(s) and s.state["shown"] == 1)
        np.testing.assert_array_equal(screens[0].labels, screens[1].labels)


def test_sessions_are_independent(client: TestClient, segmenter: Segmenter, data: Path, tmp_path: Path) -> None:
    scans = {"one.nii.gz": CLICK, "more/two.nii.gz": OTHER}
    names = {scan: open_session(client, scan) for scan in scans}
    for scan, click in scans.items():
        add_prompts(client, names[scan], click)
    for scan, click in scans.items():
        local = Session(segmenter, read_image(data / scan))
        local.add(click)
        np.testing.assert_array_equal(labels_of(client, names[scan], tmp_path), local.labels)


def test_sessions_survive_a_restart(serve: Callable[..., TestClient], local: Session, tmp_path: Path) -> None:
    first = serve()
    name = open_session(first)
    add_prompts(first, name, CLICK)
    add_prompts(first, name, OTHER)
    first.post(f"/api/sessions/{name}/steps", json={"op": "undo"})
    second = serve()
    local.add(CLICK)
    np.testing.assert_array_equal(labels_of(second, name, tmp_path), local.labels)
    second.post(f"/api/sessions/{name}/steps", json={"op": "redo"})
    local.add(OTHER)
    np.testing.assert_array_equal(labels_of(second, name, tmp_path), local.labels)


def test_a_deleted_session_is_not_found(client: TestClient) -> None:
    name = open_session(client)
    assert client.delete(f"/api/sessions/{name}").status_code == 204
    assert client.get(f"/api/sessions/{name}").status_code == 404


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (Point(class_id=9, voxel=(1, 1, 1)), "no class 9"),
        (Point(class_id=1, voxel=(99, 1, 1)), "reaches outside the volume of 18 x 20 x 13"),
        (Mask(class_id=1, start=(0, 0, 0), stop=(2, 2, 2), bits="AAAA"), "mask prompt is damaged"),
    ],
)
def test_an_invalid_prompt_is_refused_and_changes_nothing(client: TestClient, entry: Entry, message: str) -> None:
    name = open_session(client)
    with live(client, name) as socket:
        screen = Screen(socket).until(ready)
        screen.send(op="add", entries=[entry.model_dump(mode="json")])
        assert message in screen.until(lambda s: bool(s.problems)).problems[0]
    answer = client.post(f"/api/sessions/{name}/prompts", json={"entries": [entry.model_dump(mode="json")]})
    assert answer.status_code == 422
    assert message in answer.json()["detail"]
    assert client.get(f"/api/sessions/{name}").json()["entries"] == []


def test_invalid_operations_are_refused(client: TestClient) -> None:
    name = open_session(client)
    with live(client, name) as socket:
        screen = Screen(socket).until(ready)
        for text in ("{}", "no JSON", json.dumps({"op": "add", "entries": []})):
            socket.send_text(text)
        assert len(screen.until(lambda s: len(s.problems) == 3).problems) == 3


def test_an_unreadable_scan_is_reported(client: TestClient) -> None:
    sent = client.post("/api/scans", files={"file": ("x.nii.gz", b"no image")}).json()
    name = open_session(client, sent["id"])
    with live(client, name) as socket:
        screen = Screen(socket).until(lambda s: s.state.get("status") == "failed")
    assert "not a readable NIfTI" in screen.state["error"]
    assert client.get(f"/api/sessions/{name}/labels").status_code == 422


def test_a_deleted_session_accepts_nothing_and_stays_deleted(client: TestClient, tmp_path: Path) -> None:
    name = open_session(client)
    with live(client, name) as socket:
        screen = Screen(socket).until(ready)
        client.delete(f"/api/sessions/{name}")
        screen.send(op="add", entries=[CLICK.model_dump(mode="json")])
        assert "no such session" in screen.until(lambda s: len(s.problems) == 2).problems[1]
    assert list((tmp_path / "state" / "sessions").iterdir()) == []


def test_prompts_of_too_many_voxels_are_refused(client: TestClient) -> None:
    app: Any = client.app
    with app.state.store.scheduler.acquire(URGENT):  # before the scan is open, which would check their place too
        url = f"/api/sessions/{open_session(client)}"
        box = {"kind": "box", "class_id": 1, "positive": False, "start": [0, 0, 0], "stop": [2**20, 2**20, 2**20]}
        answer = client.post(f"{url}/prompts", json={"entries": [box]})
        assert answer.status_code == 422
        assert "draw smaller ones" in answer.json()["detail"]
        for stop, positive, status in (([2, 2**24, 1], False, 200), ([1, 1, 1], False, 422), ([2**20] * 3, True, 422)):
            box |= {"positive": positive, "stop": stop}
            assert client.post(f"{url}/prompts", json={"entries": [box]}).status_code == status
        client.post(f"{url}/steps", json={"op": "undo"})
        assert client.post(f"{url}/prompts", json={"entries": [box]}).status_code == 200


def test_a_zipped_series_is_a_scan(
    client: TestClient, segmenter: Segmenter, sent_series: tuple[Path, bytes], tmp_path: Path
) -> None:
    series, packed = sent_series
    sent = client.post("/api/scans", files={"file": ("x.zip", packed)}).json()
    local = Session(segmenter, read_image(series))
    np.testing.assert_array_equal(labels_of(client, open_session(client, sent["id"]), tmp_path), local.labels)


def test_labels_of_a_series_are_exported_as_seg_and_rtstruct(
    client: TestClient, segmenter: Segmenter, sent_series: tuple[Path, bytes], tmp_path: Path
) -> None:
    pytest.importorskip("highdicom", reason="highdicom (the extra dicom) is not installed")
    from s2vnet.io.dicom.seg import read_segmentation

    series, packed = sent_series
    sent = client.post("/api/scans", files={"file": ("x.zip", packed)}).json()
    name = open_session(client, sent["id"])
    assert client.get(f"/api/sessions/{name}").json()["formats"] == [
        "nii.gz",
        "nrrd",
        "mha",
        "dcm",
        "labelmap",
        "rtstruct",
    ]
    for kind in ("AUTOMATIC", "SEMIAUTOMATIC"):
        labels, files = labels_of(client, name, tmp_path), {}
        for chosen in ("dcm", "labelmap", "rtstruct"):
            answer = client.get(f"/api/sessions/{name}/labels", params={"format": chosen})
            assert (answer.status_code, answer.headers["content-type"]) == (200, "application/dicom")
            (tmp_path / chosen).write_bytes(answer.content)
            files[chosen] = pydicom.dcmread(tmp_path / chosen)
        for chosen in ("dcm", "labelmap"):
            found, names = read_segmentation(tmp_path / chosen, series)
            np.testing.assert_array_equal(found.data, labels)
            assert names == {k: name for k, name in segmenter.class_names.items() if k}
        assert {s.SegmentAlgorithmType for s in files["dcm"].SegmentSequence} == {kind}
        assert {r.ROIGenerationAlgorithm for r in files["rtstruct"].StructureSetROISequence} == {kind}
        regions = files["rtstruct"].ROIContourSequence
        assert {r.ReferencedROINumber for r in regions if "ContourSequence" in r} == set(np.unique(labels)) - {0}
        add_prompts(client, name, Point(class_id=2, voxel=(5, 9, 4)))


def test_labels_of_other_scans_have_no_dicom_export(client: TestClient, data: Path) -> None:
    name = open_session(client)
    assert client.get(f"/api/sessions/{name}").json()["formats"] == ["nii.gz", "nrrd", "mha"]
    for chosen, message in (("dcm", "SEG object belongs to a DICOM"), ("rtstruct", "structure set belongs to a DICOM")):
        answer = client.get(f"/api/sessions/{name}/labels", params={"format": chosen})
        assert answer.status_code == 422
        assert message in answer.json()["detail"]
        assert str(data) not in answer.text


def test_errors_of_dicom_export_contain_no_path(
    serve: Callable[..., TestClient], write_series: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / "scans" / "one").mkdir(parents=True)
    write_series(tmp_path / "scans" / "one", np.zeros((18, 20, 6), np.int16))
    client = serve(data=tmp_path / "scans")
    name = open_session(client, "one")
    assert client.get(f"/api/sessions/{name}/labels").status_code == 200  # it has been opened
    for file in (tmp_path / "scans" / "one").iterdir():
        file.unlink()
    answer = client.get(f"/api/sessions/{name}/labels", params={"format": "rtstruct"})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("one: ")
    assert str(tmp_path) not in answer.text


def test_the_image_of_an_odd_header_is_sent_with_one_grid(serve: Callable[..., TestClient], tmp_path: Path) -> None:
    """Lengths in metres, and an sform of other sizes: the viewer would choose otherwise than the server."""
    (tmp_path / "scans").mkdir()
    image = nib.Nifti1Image(np.zeros((18, 20, 6), np.int16), None)
    image.set_sform(np.eye(4), 1)
    image.header.set_qform(np.diag([0.001, 0.001, 0.003, 1]), 1)
    image.header.set_xyzt_units("meter")
    image.to_filename(tmp_path / "scans" / "one.nii.gz")
    client = serve(data=tmp_path / "scans")
    answer = client.get(f"/api/sessions/{open_session(client)}/image")
    (tmp_path / "sent.nii.gz").write_bytes(answer.content)
    header = nib.load(tmp_path / "sent.nii.gz").header
    assert header.get_xyzt_units()[0] == "mm"
    for form in (header.get_sform(), header.get_qform()):
        np.testing.assert_allclose(form, np.diag([1, 1, 3, 1]), rtol=1e-5)


def test_the_schema_lists_all_label_formats(client: TestClient) -> None:
    parameters = client.get("/openapi.json").json()["paths"]["/api/sessions/{name}/labels"]["get"]["parameters"]
    (asked,) = (one["schema"] for one in parameters if one["name"] == "format")
    assert tuple(asked["enum"]) == tuple(FORMATS) == (*LABEL_MAP_FORMATS, *DICOM_FORMATS)
