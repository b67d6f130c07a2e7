"""Segmentation of many images, and scores of their labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from monailabel_requests import slicer_form

from s2vnet.interactive.session import Session
from s2vnet.io.files import read_labels

URL = "/monailabel/batch/infer"


def test_images_without_a_final_label_are_segmented_and_compared(
    client: TestClient, own: Session, tmp_path: Path
) -> None:
    assert client.get(URL).status_code == 404
    swapped = np.array([0, 2, 1], np.uint8)[own.labels]
    form = slicer_form({"params": "{}"}, {"label": ("label.bin", swapped.tobytes(order="F"))})
    assert client.put("/monailabel/datastore/label?image=one.nii.gz", **form).status_code == 200
    done = client.post(
        f"{URL}/automatic?images=unlabeled&run_sync=true", json={"device": "cuda", "max_batch_size": 0}
    ).json()
    assert (done["status"], done["result"]) == ("DONE", {"more/two.nii.gz": "original"})
    assert client.post(f"{URL}/automatic?images=labeled&run_sync=true").json()["result"] == {"one.nii.gz": "original"}
    saved = client.get("/monailabel/datastore/label?label=one.nii.gz&tag=original").content
    (tmp_path / "saved.nii.gz").write_bytes(saved)
    np.testing.assert_array_equal(read_labels(tmp_path / "saved.nii.gz").data, own.labels)
    assert client.get(f"{URL}?all=true").json()[0]["id"] == done["id"]
    assert client.get(f"{URL}?check_if_running=true").status_code == 404
    assert client.delete(URL).json()["status"] == "DONE"
    assert "dice" in client.get("/monailabel/info/").json()["scoring"]
    assert client.get("/monailabel/scoring/").status_code == 404
    scored = client.post("/monailabel/scoring/dice?run_sync=true").json()
    expected = np.mean(
        [2 * (swapped == c)[own.labels == c].sum() / ((swapped == c).sum() + (own.labels == c).sum()) for c in (1, 2)]
    )
    assert scored["result"] == {"one.nii.gz": pytest.approx(expected)}
    assert client.get("/monailabel/datastore/image/info?image=one.nii.gz").json()["dice"] == pytest.approx(expected)
    assert client.post("/monailabel/scoring/?run_sync=true", json={}).json()["dice"]["result"]["status"] == "DONE"
    assert client.get("/monailabel/scoring/").json()["status"] == "DONE"
    assert client.delete("/monailabel/scoring/").json()["status"] == "DONE"


def test_errors_of_images_do_not_name_the_servers_folders(serve: Callable[..., TestClient], tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "a.nii.gz").write_bytes(b"no image")
    (line,) = serve(data=tmp_path / "private").post(f"{URL}/automatic?run_sync=true").json()["details"]
    assert line.startswith("1 of 1: a.nii.gz")
    assert "private" not in line


@pytest.mark.parametrize(
    ("path", "params", "message"),
    [
        (f"{URL}/clicks", {}, "needs prompts"),
        (f"{URL}/unknown", {}, "no such model"),
        (f"{URL}/automatic", {"label_tag": "final"}, "are not replaced"),
        (f"{URL}/automatic", {"label_tag": "../x"}, "no tag"),
        (f"{URL}/automatic", {"label_tag": ["x"]}, "label_tag is a text"),
        (f"{URL}/automatic", {"max_batch_size": "x"}, "max_batch_size a number"),
        (f"{URL}/automatic", {"save_label": False}, "there is no result"),
        ("/monailabel/scoring/sum", {}, "no such method"),
    ],
)
def test_unusable_requests_are_refused(client: TestClient, path: str, params: object, message: str) -> None:
    answer = client.post(path, content=json.dumps(params), headers={"content-type": "application/json"})
    assert answer.status_code in (404, 422)
    assert message in answer.json()["detail"]
