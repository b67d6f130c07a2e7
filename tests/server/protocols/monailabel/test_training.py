"""Training on saved labels, started and stopped by a client."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from monailabel_requests import slicer_form

from s2vnet.inference.segmenter import Segmenter
from s2vnet.io.files import read_labels, write_image, write_labels
from s2vnet.io.geometry import LabelMap, Volume


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
    save_final(client, tmp_path / "scans", [make_phantom()] * 5)
    service = client.app.state.monailabel  # type: ignore[attr-defined]
    for scan in service.labelled_scans(service.store.models.first):
        labels = read_labels(scan.labels)  # as no client can save them
        write_labels(scan.labels, LabelMap(labels.data * 3, labels.geometry))
    client.post("/monailabel/train/s2vnet", json={})
    task = wait_for(client, lambda task: task["status"] not in ("SUBMITTED", "RUNNING"))
    assert task["status"] == "ERROR"
    assert "label values 3, 6 are not in dataset.json" in task["details"][-1]
