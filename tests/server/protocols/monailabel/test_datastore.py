"""Scans and saved labels, as Slicer's and OHIF's plugins request them."""

from __future__ import annotations

import hashlib
import io
import json
import math
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from fastapi.testclient import TestClient
from monailabel_requests import parts_of, slicer_form

from s2vnet.interactive.session import Session
from s2vnet.io.files import read_labels, write_labels


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


def test_a_scan_is_returned_unchanged(client: TestClient, data: Path) -> None:
    answer = client.get("/monailabel/datastore/image?image=one.nii.gz")
    assert answer.content == (data / "one.nii.gz").read_bytes()
    assert client.head("/monailabel/datastore/image?image=one.nii.gz").status_code == 200
    assert client.head("/monailabel/datastore/image?image=../x").status_code == 404
    assert client.get("/monailabel/datastore/image/info?image=one.nii.gz").json()["shape"] == [18, 20, 13]
    checksum = hashlib.sha256(answer.content).hexdigest()
    for expected, status in ((checksum, 200), (f"SHA256:{checksum}", 200), ("SHA256:" + "0" * 64, 404), ("x", 404)):
        head = client.head(f"/monailabel/datastore/image?image=one.nii.gz&check_sum={expected}")
        assert (head.status_code, head.content) == (status, b"")


def test_an_image_is_found_by_the_id_that_its_client_chose(
    serve: Callable[..., TestClient], data: Path, own: Session, tmp_path: Path
) -> None:
    """As 3D Slicer uploads it, segments it, and submits its label; also after a restart."""
    content, client, url = (data / "one.nii.gz").read_bytes(), serve(), "/monailabel/datastore"
    sent = client.put(f"{url}/?image=MR%20Head", **slicer_form({"params": "{}"}, {"file": ("/tmp/x.nii.gz", content)}))
    assert sent.json() == {"image": "MR Head"}
    client = serve()
    assert client.get(f"{url}/image?image=MR%20Head").content == content
    _, name, labels = parts_of(client.post("/monailabel/infer/automatic?image=MR%20Head"))
    (tmp_path / name).write_bytes(labels)
    np.testing.assert_array_equal(read_labels(tmp_path / name).data, own.labels)
    form = slicer_form({"params": "{}"}, {"label": (name, labels)})
    assert client.put(f"{url}/label?image=MR%20Head", **form).status_code == 200
    stats = client.get(f"{url}/").json()
    assert (stats["total"], stats["completed"], stats["train"]) == (3, 1, [{"image": "MR Head"}])
    service = client.app.state.monailabel  # type: ignore[attr-defined]
    assert [scan.image.read_bytes() for scan in service.labelled_scans(service.store.models.first)] == [content]
    assert "Head" not in str([path.name for path in (tmp_path / "state").rglob("*")])
    assert client.delete(f"{url}/image?id=MR%20Head").json() == {}
    assert client.get(f"{url}/").json()["total"] == 2
    assert client.get(f"{url}/label?label=MR%20Head").status_code == 404
    assert not [path for path in (tmp_path / "state" / "labels").rglob("*") if path.is_file()]


def test_a_replaced_image_is_segmented_anew(client: TestClient, data: Path) -> None:
    masks = []
    for source in ("one.nii.gz", "more/two.nii.gz"):
        file = {"file": ("x.nii.gz", (data / source).read_bytes())}
        assert client.put("/monailabel/datastore/image?image=volume", files=file).status_code == 200
        masks.append(client.post("/monailabel/infer/automatic?image=volume&output=image").content)
        assert masks[-1] == client.post(f"/monailabel/infer/automatic?image={source}&output=image").content
    assert masks[0] != masks[1]


def test_files_of_the_data_folder_are_never_replaced_or_deleted(client: TestClient, data: Path) -> None:
    content = (data / "one.nii.gz").read_bytes()
    answer = client.put("/monailabel/datastore/?image=one.nii.gz", files={"file": ("x.nii.gz", b"other")})
    assert answer.status_code == 422
    assert client.delete("/monailabel/datastore/?id=one.nii.gz").status_code == 403
    upload = client.put("/monailabel/datastore/", files={"file": ("x.nii.gz", content)}).json()["image"]
    assert client.delete(f"/monailabel/datastore/?id={upload}").status_code == 403
    assert client.get(f"/monailabel/datastore/image?image={upload}").content == content
    assert (data / "one.nii.gz").read_bytes() == content


def test_facts_about_an_image_are_kept(client: TestClient) -> None:
    url = "/monailabel/datastore/image/info?image=one.nii.gz"
    assert client.put(url, data={"info": '{"reader": "x", "shape": 1}'}).status_code == 200
    assert client.put(url, data={"info": "[1]"}).status_code == 422
    info = client.get(url).json()
    assert (info["reader"], info["shape"]) == ("x", [18, 20, 13])


def test_the_dataset_holds_images_labels_and_a_description(
    serve: Callable[..., TestClient], sent_series: tuple[Path, bytes], data: Path, tmp_path: Path
) -> None:
    series, _ = sent_series
    shutil.copyfile(data / "one.nii.gz", series.parent / "a one.nii.gz")
    client = serve(data=series.parent)
    assert client.get("/monailabel/datastore/dataset").status_code == 404
    for image, shape in (("a one.nii.gz", (18, 20, 13)), ("series", (18, 20, 6)), ("series.zip", (18, 20, 6))):
        form = slicer_form({"params": "{}"}, {"label": ("label.bin", bytes(math.prod(shape)))})
        assert client.put(f"/monailabel/datastore/label?image={image}", **form).status_code == 200
    archive = zipfile.ZipFile(io.BytesIO(client.get("/monailabel/datastore/dataset").content))
    objects = json.loads(archive.read("metadata.json"))["objects"]
    names = {image: objects[image]["image"]["info"]["name"] for image in ("a one.nii.gz", "series", "series.zip")}
    stems = {name.removesuffix(".nii.gz").removesuffix(".nii").removesuffix(".zip") for name in names.values()}
    assert len(stems) == 3
    expected = [f"image/{name}" for name in names.values()] + [f"label/{stem}.nii.gz" for stem in stems]
    assert sorted(archive.namelist()) == sorted([*expected, "metadata.json"])
    assert archive.read(f"image/{names['a one.nii.gz']}") == (data / "one.nii.gz").read_bytes()
    one = zipfile.ZipFile(io.BytesIO(client.get("/monailabel/datastore/dataset?limit_cases=1").content))
    assert len(one.namelist()) == 3
