"""Scans and saved labels, as Slicer's and OHIF's plugins request them."""

from __future__ import annotations

import gzip
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from monailabel_requests import slicer_form

from s2vnet.interactive.session import Session
from s2vnet.io.files import read_labels, write_labels
from s2vnet.io.geometry import Geometry, LabelMap


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


@pytest.mark.parametrize(("voxels", "status"), [(0.03, 200), (0.2, 422)])
@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])
def test_a_label_that_another_program_rounded_gets_the_grid_of_the_image(
    client: TestClient, own: Session, tmp_path: Path, ending: str, voxels: float, status: int
) -> None:
    affine = own.geometry.affine.copy()
    affine[:3, 3] += voxels * affine[:3, 0]
    write_labels(tmp_path / f"label{ending}", LabelMap(own.labels, Geometry(own.geometry.shape, affine)))
    form = slicer_form({"params": "{}"}, {"label": (f"label{ending}", (tmp_path / f"label{ending}").read_bytes())})
    answer = client.put("/monailabel/datastore/label?image=one.nii.gz", **form)
    assert answer.status_code == status
    if status == 200:
        content = client.get("/monailabel/datastore/label?label=one.nii.gz").content
        (tmp_path / "back.nii.gz").write_bytes(content)
        np.testing.assert_array_equal(
            read_labels(tmp_path / "back.nii.gz").geometry.affine, own.geometry.affine.astype(np.float32)
        )


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
