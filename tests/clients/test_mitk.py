"""MITK's MONAI Label tool: its requests and its reading of the answers, restated.

From https://github.com/MITK/MITK, commit 20cf0c8c6cff4f6d5f66f419f1c62cd66c886efd,
Modules/Segmentation/Interactions/mitkMonaiLabelTool.cpp, `FetchOverallInfo` and `PostInferRequest`. MITK is configured
with host and port; it uses TLS, which the server has with --tls-certificate, and sends no token.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx2
import numpy as np

from s2vnet.interactive.session import Session
from s2vnet.io.files import read_labels
from s2vnet.prompts import Point

JSON, STREAM = b"Content-Type: application/json", b"Content-Type: application/octet-stream"


def infer(address: str, model: str, params: str, image: bytes) -> tuple[dict[str, dict[str, int]], bytes]:
    """Metadata and image of an answer, found as MITK finds them."""
    files = {"params": (None, params), "file": ("post_from_mitk.nii.gz", image, "application/octet-stream")}
    answer = httpx2.post(f"{address}/infer/{model}", files=files, timeout=60)
    assert answer.status_code == 200, answer.text
    kind = answer.headers["content-type"]
    boundary = b"--" + kind[kind.find("boundary=") + len("boundary=") :].encode()
    metadata, part = (each for each in answer.content.split(boundary)[:-1] if each)
    assert STREAM in part
    content = part[part.find(STREAM) + len(STREAM) :].lstrip(b" \n\r")
    return json.loads(metadata[metadata.find(JSON) + len(JSON) :]), content.removesuffix(b"\r\n")  # which MITK ignores


def test_automatic_and_interactive_models(
    serve: Callable[..., str], own: Callable[[str], Session], scans: Path, tmp_path: Path
) -> None:
    address, session, image = serve(), own("a/image.nii.gz"), (scans / "a" / "image.nii.gz").read_bytes()
    info = httpx2.get(f"{address}/info/").json()
    assert isinstance(info["labels"], list)
    for model in info["models"].values():
        assert all(isinstance(value, int) for value in model["labels"].values())
        assert {"type", "dimension", "description"} <= set(model)
    automatic = next(name for name, model in info["models"].items() if model["type"] == "segmentation")
    found, content = infer(address, automatic, '{"restore_label_idx": true}', image)
    (tmp_path / "labels.nii.gz").write_bytes(content)
    np.testing.assert_array_equal(read_labels(tmp_path / "labels.nii.gz").data, session.labels)
    assert {name: value for name, value in found["label_names"].items() if value} == {"left part": 1, "right": 2}
    interactive = next(name for name, model in info["models"].items() if model["type"] == "deepgrow")
    _, content = infer(address, interactive, '{"foreground":[[5,9,4]],"background":[[11,9,9]]}', image)
    (tmp_path / "object.nii.gz").write_bytes(content)
    class_id = session.add_class("object")
    session.add(Point(class_id=class_id, voxel=(5, 9, 4)), Point(class_id=class_id, voxel=(11, 9, 9), positive=False))
    np.testing.assert_array_equal(read_labels(tmp_path / "object.nii.gz").data, session.labels == class_id)
