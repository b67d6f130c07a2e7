"""Requests as Slicer's and OHIF's plugins send them, and responses as they read them."""

from __future__ import annotations

import email
import gzip
import json
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.io.files import read_image, read_labels, write_image, write_labels
from s2vnet.io.geometry import LabelMap, Volume
from s2vnet.prompts import Point

LIMIT = "----------lImIt_of_THE_fIle_eW_$"
CLICKS = {"right": [[5, 9, 4], [6, 7, 8]], "background": [[11, 9, 9]], "left part": []}


def slicer_form(fields: dict[str, str], files: dict[str, tuple[str, bytes]]) -> dict[str, Any]:
    """A body as MONAI Label's client makes it (`encode_multipart_formdata`)."""
    body = bytearray()
    for key, value in fields.items():
        body += f'--{LIMIT}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
    for key, (name, data) in files.items():
        head = f'--{LIMIT}\r\nContent-Disposition: form-data; name="{key}"; filename="{name}"\r\n'
        body += f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + data + b"\r\n"
    body += f"--{LIMIT}--\r\n".encode()
    return {"content": bytes(body), "headers": {"content-type": f"multipart/form-data; boundary={LIMIT}"}}


def parts_of(answer: Any) -> tuple[dict[str, Any], str, bytes]:
    """Parameters, file name and file of a multipart answer."""
    text = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode() + answer.content
    params, image = email.message_from_bytes(text).get_payload()
    assert params.get_filename() is None
    assert params.get_param("name", header="content-disposition") == "params"
    return json.loads(params.get_payload(decode=True)), image.get_filename(), image.get_payload(decode=True)


@pytest.fixture
def own(segmenter: Segmenter, bordered: Volume) -> Session:
    """The same, without a server."""
    return Session(segmenter, bordered)


def test_info_has_what_clients_need(client: TestClient) -> None:
    info = client.get("/monailabel/info/").json()
    assert "config" not in info  # Slicer refuses a server with one
    assert info["labels"] == ["background", "left part", "right"]
    assert [model["type"] for model in info["models"].values()] == ["segmentation", "deepedit"]
    for model in info["models"].values():
        assert model["labels"] == {"background": 0, "left part": 1, "right": 2}
        assert model["dimension"] == 3
    assert info["datastore"]["total"] == 2
    assert client.get("/monailabel/auth/").status_code == 404


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


def test_labels_are_saved_and_the_next_sample_has_none(client: TestClient, own: Session, tmp_path: Path) -> None:
    first = client.post("/monailabel/activelearning/first", json={"client_id": "x"}).json()
    assert first["id"] == "more/two.nii.gz"
    write_labels(tmp_path / "final.nii.gz", own.result)
    for scan in ("more/two.nii.gz", "one.nii.gz"):
        files = {"label": ("final.nii.gz", (tmp_path / "final.nii.gz").read_bytes())}
        form = slicer_form({"params": json.dumps({"label_info": []})}, files)
        assert client.put(f"/monailabel/datastore/label?image={scan}&tag=final", **form).json()["label"] == scan
    assert client.post("/monailabel/activelearning/random", json={}).json() == {}
    stats = client.get("/monailabel/datastore/").json()
    assert (stats["completed"], stats["label_tags"]) == (2, {"final": 2, "original": 0})
    assert len(client.get("/monailabel/datastore/?output=train").json()) == 2
    answer = client.get("/monailabel/datastore/label?label=one.nii.gz&tag=final")
    (tmp_path / "back.nii.gz").write_bytes(answer.content)
    np.testing.assert_array_equal(read_labels(tmp_path / "back.nii.gz").data, own.labels)
    assert client.get("/monailabel/datastore/label/info?label=one.nii.gz").json()["labels"] == [0, 1, 2]
    assert client.get("/monailabel/datastore/?output=all").json()["objects"]["one.nii.gz"]["labels"]["final"]


def test_equal_names_in_two_folders_have_separate_labels(
    serve: Callable[..., TestClient], data: Path, own: Session, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    shutil.copyfile(data / "one.nii.gz", tmp_path / "other" / "one.nii.gz")
    form = slicer_form({"params": "{}"}, {"label": ("label.bin", own.labels.tobytes(order="F"))})
    assert serve().put("/monailabel/datastore/label?image=one.nii.gz", **form).status_code == 200
    assert serve().get("/monailabel/datastore/label?label=one.nii.gz").status_code == 200
    other = serve(data=tmp_path / "other")
    assert other.get("/monailabel/datastore/label?label=one.nii.gz").status_code == 404
    assert other.get("/monailabel/datastore/").json()["completed"] == 0


def test_raw_bytes_of_ohif_are_a_label(client: TestClient, own: Session, tmp_path: Path) -> None:
    raw = own.labels.tobytes(order="F")
    form = slicer_form({"params": "{}"}, {"label": ("label.bin", raw)})
    assert client.put("/monailabel/datastore/label?image=one.nii.gz&tag=", **form).status_code == 200
    (tmp_path / "back.nii.gz").write_bytes(client.get("/monailabel/datastore/label?label=one.nii.gz").content)
    np.testing.assert_array_equal(read_labels(tmp_path / "back.nii.gz").data, own.labels)
    form = slicer_form({"params": "{}"}, {"label": ("label.bin", raw[:-1])})
    assert client.put("/monailabel/datastore/label?image=one.nii.gz", **form).status_code == 422


def test_a_scan_is_returned_unchanged(client: TestClient, data: Path) -> None:
    answer = client.get("/monailabel/datastore/image?image=one.nii.gz")
    assert answer.content == (data / "one.nii.gz").read_bytes()
    assert client.head("/monailabel/datastore/image?image=one.nii.gz").status_code == 200
    assert client.head("/monailabel/datastore/image?image=../x").status_code == 404
    assert client.get("/monailabel/datastore/image/info?image=one.nii.gz").json()["shape"] == [18, 20, 13]
    sent = client.put("/monailabel/datastore/?image=x", files={"file": ("x.nii.gz", answer.content)}).json()["image"]
    assert client.get(f"/monailabel/datastore/image?image={sent}").content == answer.content


def test_the_most_uncertain_scan_is_chosen_and_scores_are_saved(
    serve: Callable[..., TestClient], segmenter: Segmenter, tmp_path: Path, bordered: Volume
) -> None:
    """Whichever that is: the entropy of every scan, by definition, from a session of one's own."""
    data, expected = tmp_path / "scans", {}
    data.mkdir()
    for name, part in (("a.nii.gz", bordered.data[..., ::-1]), ("b.nii.gz", bordered.data * 0.2), ("c.nii.gz", None)):
        if part is None:
            (data / name).write_bytes(b"no scan")
            continue
        write_image(data / name, Volume(np.ascontiguousarray(part), bordered.geometry))
        scores = Session(segmenter, read_image(data / name))._result.segmentation.scores.double()  # type: ignore[union-attr]
        expected[name] = float(-(scores * scores.clamp_min(1e-12).log()).sum(1).mean())
    client = serve(data=data)
    assert "uncertainty" in client.get("/monailabel/info/").json()["strategies"]
    assert (
        client.post("/monailabel/activelearning/uncertainty", json={}).json()["id"] == "a.nii.gz"
    )  # none is known yet
    service = client.app.state.monailabel  # type: ignore[attr-defined]
    service.uncertainty.wait(60)
    assert service.uncertainty.scores(["a.nii.gz", "b.nii.gz", "c.nii.gz"]) == pytest.approx(expected, rel=1e-3)
    most_uncertain = max(expected, key=lambda name: expected[name])
    for asked in (client, serve(data=data)):
        assert asked.post("/monailabel/activelearning/uncertainty", json={}).json()["id"] == most_uncertain
        assert asked.app.state.monailabel.uncertainty._thread is None  # type: ignore[attr-defined]
    assert ".nii" not in (tmp_path / "state" / "doubts.json").read_text()
    write_image(data / "a.nii.gz", bordered)
    assert set(service.uncertainty.scores(["a.nii.gz", "b.nii.gz"])) == {"b.nii.gz"}  # another file now


def save_final(client: TestClient, folder: Path, phantoms: list[tuple[Volume, LabelMap]]) -> None:
    """Scans with final labels, as a client saves them."""
    for number, (volume, labels) in enumerate(phantoms):
        name = f"Doe {number}.nii.gz" if number else "Doe 0.mha"
        write_image(folder / name, volume)
        write_labels(folder.parent / "final.nii.gz", labels)
        form = slicer_form({"params": "{}"}, {"label": ("f.nii.gz", (folder.parent / "final.nii.gz").read_bytes())})
        assert client.put(f"/monailabel/datastore/label?image={name}&tag=final", **form).status_code == 200


def wait_for(client: TestClient, until: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The training once it stands so."""
    for _ in range(1200):
        task: dict[str, Any] = client.get("/monailabel/train/").json()
        if until(task):
            return task
        time.sleep(0.1)
    raise AssertionError(task)


@pytest.mark.timeout(300)
def test_training_starts_stops_and_resumes(
    serve: Callable[..., TestClient], make_phantom: Callable[..., tuple[Volume, LabelMap]], tmp_path: Path
) -> None:
    data, params = tmp_path / "scans", {"max_epochs": 12, "steps_per_epoch": 1, "train_batch_size": 1, "name": "x"}
    data.mkdir()
    client = serve(data=data)
    assert client.get("/monailabel/train/?check_if_running=true").status_code == 404
    assert client.get("/monailabel/info/").json()["trainers"]["s2vnet"]["config"]["max_epochs"] == 48
    save_final(client, data, [make_phantom(seed=seed) for seed in range(4)])
    refused = client.post("/monailabel/train/s2vnet", json=params)
    assert (refused.status_code, "training needs 5" in refused.json()["detail"]) == (422, True)
    save_final(client, data, [make_phantom(seed=seed) for seed in range(5)])
    assert "setting epochs" in client.post("/monailabel/train/s2vnet", json={"max_epochs": 0}).json()["detail"]
    task = client.post("/monailabel/train/s2vnet", json=params).json()
    assert client.post("/monailabel/train/s2vnet", json=params).status_code == 429
    wait_for(client, lambda task: "epoch" in task["details"][0])
    assert client.get("/monailabel/train/?check_if_running=true").json()["status"] == "RUNNING"
    stopped = client.delete("/monailabel/train/").json()
    assert (stopped["id"], stopped["status"]) == (task["id"], "STOPPED")
    assert client.delete("/monailabel/train/").json() is None
    assert client.get("/monailabel/train/?check_if_running=true").status_code == 404

    (folder,) = (tmp_path / "state" / "training").iterdir()
    before = json.loads((folder / "run" / "history.json").read_text())
    assert 0 < len(before) < 12
    assert (folder / "run" / "checkpoint.pt").exists()
    client = serve(data=data)  # as after a restart
    assert client.get("/monailabel/train/").json()["status"] == "STOPPED"
    again = client.post("/monailabel/train/", json={"s2vnet": params}).json()["s2vnet"]["result"]
    assert again["id"] == task["id"]
    done = wait_for(client, lambda task: task["status"] not in ("SUBMITTED", "RUNNING"))
    assert done["status"] == "DONE", client.get("/monailabel/logs/").text
    after = json.loads((folder / "run" / "history.json").read_text())
    assert [row["loss"] for row in after[: len(before)]] == [row["loss"] for row in before]
    assert client.get("/monailabel/info/").json()["train_stats"]["s2vnet"]["epoch"] == 12
    run = Path(done["result"].split("serve -m ")[1])
    trained = Segmenter.from_pretrained(run, device="cpu")
    assert trained.class_names == {0: "background", 1: "left part", 2: "right"}
    assert len(list((run.parent / "dataset" / "imagesTr").iterdir())) == 5
    shown = client.get("/monailabel/logs/").text + str([path.name for path in run.parent.rglob("*")])
    assert "Doe" not in shown
    another = client.post("/monailabel/train/s2vnet", json=params).json()  # what is done is done
    assert another["id"] != task["id"]
    assert client.delete("/monailabel/train/").json()["status"] == "STOPPED"
    assert [task["status"] for task in client.get("/monailabel/train/?all=true").json()] == ["DONE", "STOPPED"]


@pytest.mark.timeout(300)
def test_failed_trainings_are_reported(
    serve: Callable[..., TestClient], make_phantom: Callable[..., tuple[Volume, LabelMap]], tmp_path: Path
) -> None:
    (tmp_path / "scans").mkdir()
    client = serve(data=tmp_path / "scans")
    unknown = [(volume, LabelMap(labels.data * 3, labels.geometry)) for volume, labels in [make_phantom()] * 5]
    save_final(client, tmp_path / "scans", unknown)
    client.post("/monailabel/train/s2vnet", json={})
    task = wait_for(client, lambda task: task["status"] not in ("SUBMITTED", "RUNNING"))
    assert task["status"] == "ERROR"
    assert "label values [3, 6] are not in dataset.json" in task["details"][-1]


@pytest.mark.parametrize(
    ("path", "params", "message"),
    [
        ("clicks?image=one.nii.gz", {"spleen": [[1, 1, 1]]}, "no class and no parameter 'spleen'"),
        ("clicks?image=one.nii.gz", {"right": [[1, 1]]}, "field required|clicks are given as"),
        ("clicks?image=one.nii.gz", {"right": [[99, 1, 1]]}, "reaches outside the volume"),
        ("clicks?image=one.nii.gz", [1], "no JSON object"),
        ("automatic?image=../one.nii.gz", {}, "no such scan"),
        ("automatic?image=", {}, "no such scan"),
        ("automatic?image=one.nii.gz", {"result_extension": ".exe"}, "no format"),
    ],
)
def test_invalid_requests_are_refused(client: TestClient, path: str, params: Any, message: str) -> None:
    answer = client.post(f"/monailabel/infer/{path}", **slicer_form({"params": json.dumps(params)}, {}))
    assert answer.status_code in (404, 422)
    assert any(text in str(answer.json()["detail"]) for text in message.split("|"))


def test_labels_of_another_grid_are_refused(client: TestClient, tmp_path: Path, own: Session) -> None:
    write_labels(tmp_path / "other.nii.gz", LabelMap(own.labels[1:], own.geometry.__class__((17, 20, 13), np.eye(4))))
    files = {"label": ("other.nii.gz", (tmp_path / "other.nii.gz").read_bytes())}
    answer = client.put("/monailabel/datastore/label?image=one.nii.gz", **slicer_form({"params": "{}"}, files))
    assert answer.status_code == 422
    assert "grids differ" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("dimensions", "message"),
    [((3, 2048, 2048, 2048, 1), "grids differ"), ((4, 18, 20, 13, 30000), "label of 140400000 values for 4680 voxels")],
)
def test_a_label_that_claims_more_voxels_is_not_decompressed(
    client: TestClient, tmp_path: Path, own: Session, dimensions: tuple[int, ...], message: str
) -> None:
    write_labels(tmp_path / "label.nii.gz", own.result)
    content = bytearray(gzip.decompress((tmp_path / "label.nii.gz").read_bytes()))
    struct.pack_into("<5h", content, 40, *dimensions)  # `dim` of the header
    files = {"label": ("label.nii.gz", gzip.compress(content))}
    answer = client.put("/monailabel/datastore/label?image=one.nii.gz", **slicer_form({"params": "{}"}, files))
    assert answer.status_code == 422
    assert message in answer.json()["detail"]
    assert list((tmp_path / "state" / "sent").iterdir()) == []
