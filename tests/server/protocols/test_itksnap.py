"""Requests as ITK-SNAP sends them (`DeepLearningSegmentationModel.cxx`), and responses as it reads them."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from fastapi.testclient import TestClient

from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.io.geometry import Geometry, Volume
from s2vnet.prompts import Mask, Point, Scribble, Voxel
from s2vnet.server.model_library import ModelLibrary
from s2vnet.server.protocols.itksnap import PROTOCOL, model_names
from s2vnet.server.protocols.one_object_client import Target

Array = npt.NDArray[Any]


def encoded(array: Array, geometry: Geometry, **changes: Any) -> dict[str, Any]:
    """A body as `EncodeImage` makes it of an array (I, J, K): two parts, of which one is a file."""
    affine = geometry.affine_lps
    metadata = {
        "dimensions": array.shape,
        "spacing": geometry.spacing,
        "origin": affine[:3, 3].tolist(),
        "direction": (affine[:3, :3] / np.array(geometry.spacing)).ravel().tolist(),
        "components_per_pixel": 1,
        "component_type": "float32",
    }
    packed = gzip.compress(array.astype("<f4").tobytes(order="F"))
    return {
        "files": {
            "file": ("image.gz", packed, "application/gzip"),
            "metadata": (None, json.dumps(metadata | changes), "application/json"),
        }
    }


class Snap:
    """ITK-SNAP with an image: all that it asks for, in its own words."""

    def __init__(self, server: TestClient, image: Volume, model: str = "s2vnet") -> None:
        self._server, self._image = server, image
        assert server.get("/status").json()["version"] == PROTOCOL
        offered = {one["id"]: one for one in server.get("/v2/models").json()["models"]}[model]
        assert offered["dimensions"] == 3
        self.session = self._got(server.get(f"/v2/start_session/{model}"))["session_id"]
        self.upload(image)

    def upload(self, image: Volume) -> None:
        """A new image."""
        self._image = image
        body = encoded(image.data[0], image.geometry)
        self._got(self._server.post(f"/upload_raw/{self.session}?filename=upload.nii.gz", **body))

    def point(self, place: Voxel, reverse: bool = False) -> Array:
        """A click, with the right button where it is reversed."""
        i, j, k = place
        asked = f"point={i}&point={j}&point={k}&foreground={'false' if reverse else 'true'}"
        return self._mask(self._server.get(f"/v2/process_point_interaction/{self.session}?{asked}"))

    def draw(self, kind: str, drawing: Array, reverse: bool = False) -> Array:
        """A scribble or a lasso."""
        asked = f"foreground={'false' if reverse else 'true'}"
        body = encoded(drawing, self._image.geometry)
        return self._mask(self._server.post(f"/process_{kind}_interaction/{self.session}?{asked}", **body))

    def reset(self) -> None:
        """Another label begins."""
        assert self._got(self._server.get(f"/reset_interactions/{self.session}")) == {"status": "success"}

    def end(self) -> None:
        """Another model begins."""
        self._got(self._server.get(f"/v2/end_session/{self.session}"))

    def _mask(self, answer: Any) -> Array:
        raw = gzip.decompress(base64.b64decode(self._got(answer)["result"]))
        return np.frombuffer(raw, np.int8).reshape(self._image.geometry.shape, order="F")

    @staticmethod
    def _got(answer: Any) -> dict[str, Any]:
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


@pytest.fixture
def own(segmenter: Segmenter, bordered: Volume) -> Session:
    """A local session on the same image."""
    return Session(segmenter, bordered)


def voxel_of(labels: Array, class_id: int, which: int) -> Voxel:
    """Some voxel of a class."""
    i, j, k = np.argwhere(labels == class_id)[which].tolist()
    return i, j, k


def test_interactions_give_the_labels_of_a_local_session(client: TestClient, bordered: Volume, own: Session) -> None:
    snap = Snap(client, bordered, "s2vnet-right")
    own.add_point(2, (5, 9, 4))
    np.testing.assert_array_equal(snap.point((5, 9, 4)), own.labels == 2)
    away = voxel_of(own.labels, 2, 7)
    own.add(Point(class_id=2, voxel=away, positive=False))
    np.testing.assert_array_equal(snap.point(away, reverse=True), own.labels == 2)
    drawing = np.zeros(own.labels.shape)
    drawing[6, 8:10, 4] = 1
    own.add(Scribble(class_id=2, voxels=((6, 8, 4), (6, 9, 4))))
    np.testing.assert_array_equal(snap.draw("scribble", drawing), own.labels == 2)
    drawing[:] = 0
    drawing[3:8, 5:9, 7] = 1
    own.add(Mask.from_array(drawing > 0, 2, positive=False))
    np.testing.assert_array_equal(snap.draw("lasso", drawing, reverse=True), own.labels == 2)
    snap.reset()
    own.reset()
    own.add_point(2, (6, 7, 8))
    np.testing.assert_array_equal(snap.point((6, 7, 8)), own.labels == 2)
    snap.end()


def test_without_a_class_an_object_is_its_prompts_alone(client: TestClient, bordered: Volume, own: Session) -> None:
    """One after another; a first prompt that is not in the object leaves it empty."""
    snap = Snap(client, bordered)
    for class_id in (1, 2, 1):
        place, second = voxel_of(own.labels, class_id, 3), voxel_of(own.labels, 3 - class_id, 5)
        thing = own.add_class("object")
        own.add_point(thing, second, positive=False)
        assert not snap.point(second, reverse=True).any()
        own.add_point(thing, place)
        mask = snap.point(place)
        np.testing.assert_array_equal(mask, own.labels == thing)
        assert mask[place]
        snap.reset()
        own.reset()


def test_the_grid_is_respected(client: TestClient, oriented: tuple[Volume, Volume, str], segmenter: Segmenter) -> None:
    """However the file's axes lie, and with its voxel sizes."""
    _, volume, _ = oriented
    own = Session(segmenter, volume)
    place = voxel_of(own.labels, 2, 3)
    own.add_point(2, place)
    np.testing.assert_array_equal(Snap(client, volume, "s2vnet-right").point(place), own.labels == 2)


def test_the_older_protocol_is_supported(client: TestClient, bordered: Volume, own: Session) -> None:
    session = client.get("/start_session").json()["session_id"]
    body = encoded(bordered.data[0], bordered.geometry)
    assert client.post(f"/upload_raw/{session}?filename=upload.nii.gz", **body).status_code == 200
    i, j, k = place = voxel_of(own.labels, 2, 3)
    answer = client.get(f"/process_point_interaction/{session}?x={i}&y={j}&z={k}&foreground=true").json()
    raw = gzip.decompress(base64.b64decode(answer["result"]))
    thing = own.add_class("object")
    own.add_point(thing, place)
    assert raw == (own.labels == thing).astype(np.int8).tobytes(order="F")
    assert client.get(f"/reset_interactions/{session}").json() == {"status": "success"}
    assert client.get(f"/end_session/{session}").status_code == 200


def test_clients_are_independent(client: TestClient, bordered: Volume, own: Session, segmenter: Segmenter) -> None:
    turned = Volume(np.ascontiguousarray(bordered.data[:, ::-1]), bordered.geometry)
    one, other = Snap(client, bordered, "s2vnet-right"), Snap(client, turned)
    assert one.session != other.session
    own_other = Session(segmenter, turned)
    for class_id in (1, 2):
        here, there = voxel_of(own.labels, class_id, 3), voxel_of(own_other.labels, 3 - class_id, 3)
        thing = own_other.add_class("object")
        own.add_point(2, here)
        own_other.add_point(thing, there)
        np.testing.assert_array_equal(one.point(here), own.labels == 2)
        np.testing.assert_array_equal(other.point(there), own_other.labels == thing)
        for each in (one, other):
            each.reset()
        own.reset()
        own_other.reset()
    other.end()
    one.point((5, 9, 4))
    assert client.get(f"/reset_interactions/{other.session}").status_code == 404


def test_a_new_image_replaces_session_and_file(
    client: TestClient, bordered: Volume, own: Session, tmp_path: Path
) -> None:
    turned = Volume(np.ascontiguousarray(bordered.data[:, ::-1]), bordered.geometry)
    snap = Snap(client, turned)
    snap.point((5, 9, 4))
    snap.upload(bordered)
    for class_id in (1, 2):
        place = voxel_of(own.labels, class_id, 3)
        thing = own.add_class("object")
        own.add_point(thing, place)
        np.testing.assert_array_equal(snap.point(place), own.labels == thing)
        snap.upload(bordered)
        own.reset()
    assert len(list((tmp_path / "state" / "sent").iterdir())) == 1
    snap.end()
    assert not list((tmp_path / "state" / "sent").iterdir())
    assert not list((tmp_path / "state" / "sessions").iterdir())


def test_an_expired_client_makes_room(serve: Callable[..., TestClient], bordered: Volume) -> None:
    client = serve(max_sessions=1)
    first = Snap(client, bordered)
    assert client.get("/v2/start_session/s2vnet").status_code == 503
    client.app.state.itksnap.get(first.session).last_active -= 601  # type: ignore[attr-defined]
    Snap(client, bordered).point((5, 9, 4))
    assert client.get(f"/reset_interactions/{first.session}").status_code == 404


def test_invalid_requests_are_refused(serve: Callable[..., TestClient], bordered: Volume) -> None:
    client = serve(max_voxels=5000)
    assert "no such model" in client.get("/v2/start_session/nnInteractive").json()["detail"]
    assert client.post("/upload_raw/x", **encoded(bordered.data[0], bordered.geometry)).status_code == 404
    snap = Snap(client, bordered)
    data, grid = bordered.data[0], bordered.geometry
    bomb = {"files": {**encoded(data, grid)["files"]}}
    bomb["files"]["file"] = ("image.gz", gzip.compress(bytes(200 * 2**20)), "application/gzip")
    cut = {"files": {**encoded(data, grid)["files"]}}
    cut["files"]["file"] = ("image.gz", cut["files"]["file"][1][:-20], "application/gzip")
    plain = {"files": {**cut["files"], "file": ("image.gz", data.tobytes(), "application/gzip")}}
    for body, message in (
        (bomb, "holds more than the 4680 float32"),
        (encoded(data[1:], grid, dimensions=[18, 20, 13]), "holds less than the 4680 float32"),
        (cut, "damaged"),
        (plain, "not gzip data"),
        (encoded(data, grid, dimensions=[18, 20, 10**6]), "more than the 5000 that this server opens"),
        (encoded(data, grid, dimensions=[18, 20]), "metadata: dimensions"),
        (encoded(data, grid, dimensions=[18, 20, -13]), "metadata: dimensions"),
        (encoded(data, grid, components_per_pixel=3), "3 channels, where the model takes channel 0"),
        (encoded(data, grid, component_type="float64"), "metadata: component_type"),
        (encoded(data, grid, spacing=[0, 1, 1]), "affine cannot be inverted"),
        (encoded(data, grid, direction=[1, 0, 0, 1, 0, 0, 1, 0, 0]), "affine cannot be inverted"),
    ):
        answer = client.post(f"/upload_raw/{snap.session}", **body)
        assert (answer.status_code, "\n" in answer.json()["detail"]) == (422, False)
        assert message in answer.json()["detail"]
    empty = client.post(f"/process_scribble_interaction/{snap.session}", **encoded(np.zeros(grid.shape), grid))
    assert "holds no voxel" in empty.json()["detail"]
    smaller = client.post(f"/process_lasso_interaction/{snap.session}", **encoded(data[1:], grid))
    assert "on an image of (18, 20, 13)" in smaller.json()["detail"]
    for asked in ("point=1&point=1", "point=1&point=1&point=99&foreground=true", "point=1&point=1&point=-1"):
        assert client.get(f"/v2/process_point_interaction/{snap.session}?{asked}").status_code == 422
    np.testing.assert_array_equal(snap.point((5, 9, 4)).shape, grid.shape)  # what was refused has done no harm
    fresh = client.get("/start_session").json()["session_id"]
    refused = client.get(f"/v2/process_point_interaction/{fresh}?point=1&point=1&point=1&foreground=true")
    assert "upload_raw comes first" in refused.json()["detail"]


def test_browsers_are_refused(client: TestClient) -> None:
    """An image in a page is a GET without an origin."""
    for site in ("cross-site", "same-site", "same-origin", "none"):
        assert client.get("/start_session", headers={"sec-fetch-site": site}).status_code == 403
    assert client.get("/start_session").status_code == 200
    assert client.get("/").status_code == 200


def test_model_names_are_unique_and_safe_in_urls() -> None:
    classes = {0: "background", 1: "left kidney", 2: "left/kidney", 3: "Niere (rechts)", 4: "肝"}
    model: Any = SimpleNamespace(name="ct", classes=classes)
    names = model_names(ModelLibrary([model]))
    assert {name: target.class_id for name, target in names.items()} == {
        "s2vnet": None,
        "s2vnet-left-kidney": 1,
        "s2vnet-left-kidney-2": 2,
        "s2vnet-niere-rechts": 3,
        "s2vnet-4": 4,
    }
    other: Any = SimpleNamespace(name="mr", classes={0: "background", 1: "liver"})
    both = model_names(ModelLibrary([model, other]))
    assert list(both)[:3] == ["s2vnet", "s2vnet-ct", "s2vnet-ct-left-kidney"]
    assert {name: both[name] for name in ("s2vnet", "s2vnet-mr", "s2vnet-mr-liver")} == {
        "s2vnet": Target(), "s2vnet-mr": Target(other), "s2vnet-mr-liver": Target(other, 1),
    }  # fmt: skip
