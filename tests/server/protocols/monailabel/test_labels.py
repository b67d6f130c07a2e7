"""Labels that clients save, download and delete."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from monailabel_requests import slicer_form

from s2vnet.interactive.session import Session
from s2vnet.io.files import read_labels, write_labels
from s2vnet.io.geometry import Geometry, LabelMap

URL = "/monailabel/datastore/label"


def back(client: TestClient, folder: Path, tag: str = "final") -> np.ndarray:
    """The saved label of `one.nii.gz`."""
    (folder / "back.nii.gz").write_bytes(client.get(f"{URL}?label=one.nii.gz&tag={tag}").content)
    return read_labels(folder / "back.nii.gz").data


def test_the_reviewer_approves_and_deletes_a_version(client: TestClient, own: Session, tmp_path: Path) -> None:
    write_labels(tmp_path / "one.nii.gz.nrrd", own.result)
    content = {"label_info": [{"name": "left part", "idx": 1}, {"name": "right", "idx": 2}]}
    meta = {"segmentationMeta": {"status": "approved", "level": "easy", "comment": "ü"}}
    sent = client.put(
        f"{URL}?image=one.nii.gz&tag=version_1",
        data={"params": json.dumps({**content, **meta})},
        files={"label": ("one.nii.gz.nrrd", (tmp_path / "one.nii.gz.nrrd").read_bytes())},
    )
    assert sent.status_code == 200, sent.text
    np.testing.assert_array_equal(back(client, tmp_path, "version_1"), own.labels)
    update = "/monailabel/datastore/updatelabelinfo?label=one.nii.gz&tag=version_1"
    changed = {"segmentationMeta": {"status": "flagged"}}
    assert client.put(update, data={"params": json.dumps(changed)}).status_code == 200
    listed = client.get("/monailabel/datastore/?output=all").json()["objects"]["one.nii.gz"]
    info = listed["labels"]["version_1"]["info"]
    assert (info["segmentationMeta"], info["label_info"]) == (changed["segmentationMeta"], content["label_info"])
    put = client.put(f"{URL}/info?label=one.nii.gz&tag=version_1", data={"info": '{"reader": 1}'})
    assert put.status_code == 200
    assert client.get(f"{URL}/info?label=one.nii.gz&tag=version_1").json()["reader"] == 1
    assert client.head(f"{URL}?image=one.nii.gz&tag=version_1").status_code == 200
    assert client.delete(f"{URL}?id=one.nii.gz&tag=version_1").status_code == 200
    for status in (
        client.head(f"{URL}?image=one.nii.gz&tag=version_1"),
        client.get(f"{URL}/info?label=one.nii.gz&tag=version_1"),
    ):
        assert status.status_code == 404


def test_a_label_without_its_first_segment_keeps_its_class(client: TestClient, own: Session, tmp_path: Path) -> None:
    """Slicer then numbers the second segment 1."""
    exported = LabelMap((own.labels == 2).astype(np.uint8), own.geometry)
    write_labels(tmp_path / "label.nii.gz", exported)
    files = {"label": ("label.nii.gz", (tmp_path / "label.nii.gz").read_bytes())}
    form = slicer_form({"params": json.dumps({"label_info": [{"name": "right", "idx": 1}]})}, files)
    assert client.put(f"{URL}?image=one.nii.gz", **form).status_code == 200
    np.testing.assert_array_equal(back(client, tmp_path), 2 * exported.data)
    form = slicer_form({"params": json.dumps({"label_info": [{"name": "tumor", "idx": 1}]})}, files)
    answer = client.put(f"{URL}?image=one.nii.gz", **form)
    assert (answer.status_code, "tumor" in answer.json()["detail"]) == (422, True)


@pytest.mark.parametrize("dtype", ["uint8", "<u2"])
def test_raw_voxels_of_ohif_are_a_label(client: TestClient, own: Session, tmp_path: Path, dtype: str) -> None:
    """Of its plugin for OHIF 3, and for OHIF 2."""
    raw = own.labels.astype(dtype).tobytes(order="F")
    form = slicer_form({"params": "{}"}, {"label": ("label.bin", raw)})
    assert client.put(f"{URL}?image=one.nii.gz&tag=", **form).status_code == 200
    np.testing.assert_array_equal(back(client, tmp_path), own.labels)
    form = slicer_form({"params": "{}"}, {"label": ("label.bin", raw[:-1])})
    assert client.put(f"{URL}?image=one.nii.gz", **form).status_code == 422


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
