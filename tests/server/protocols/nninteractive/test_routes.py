"""nnInteractive's real client gets the masks of a local session."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from fastapi.testclient import TestClient
from listening import listening

from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.io.files import read_geometry
from s2vnet.io.geometry import Geometry, Volume
from s2vnet.prompts import Box, Extent, Mask, Point, Scribble
from s2vnet.server.app import create_app
from s2vnet.server.model_library import ModelLibrary
from s2vnet.server.protocols.array_codec import pack
from s2vnet.server.protocols.nninteractive import array_geometry
from s2vnet.server.protocols.nninteractive import lease as lease_module
from s2vnet.server.session_worker import SessionWorker
from s2vnet.server.settings import Settings

remote = pytest.importorskip("nnInteractive.inference.remote.remote_session")
SPACING = (2.5, 1.1, 0.8)
Client = Any


@pytest.fixture
def address(settings: Callable[..., Settings], library: ModelLibrary) -> Iterator[str]:
    """A server that listens."""
    with listening(create_app(settings(), library)) as address:
        yield f"{address}/nninteractive"


@pytest.fixture
def image(bordered: Volume) -> npt.NDArray[np.float32]:
    """The bordered image as SimpleITK's arrays are: slices, rows, columns."""
    return np.ascontiguousarray(bordered.data.transpose(0, 3, 2, 1))


@pytest.fixture
def own(segmenter: Segmenter, image: npt.NDArray[np.float32]) -> Session:
    """The same, without a server."""
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = SPACING[0], -SPACING[1], -SPACING[2], 1
    return Session(segmenter, Volume(image, Geometry(image.shape[1:], affine)))  # type: ignore[arg-type]


def connect(address: str, image: npt.NDArray[np.float32]) -> tuple[Client, npt.NDArray[np.uint8]]:
    client = remote.nnInteractiveRemoteInferenceSession(address)
    client.set_image(image, {"spacing": SPACING, "axes": "SPL"})
    buffer = np.zeros(image.shape[1:], np.uint8)
    client.set_target_buffer(buffer)
    return client, buffer


def test_interactions_give_the_labels_of_a_local_session(
    address: str, image: npt.NDArray[np.float32], own: Session
) -> None:
    client, buffer = connect(address + "/right", image)
    point = (4, 9, 5)
    client.add_point_interaction(point, True)
    own.add_point(2, point)
    np.testing.assert_array_equal(buffer, own.labels == 2)
    away = tuple(int(n) for n in np.argwhere(own.labels == 2)[7])
    client.add_point_interaction(away, False)
    own.add(Point(class_id=2, voxel=away, positive=False))  # type: ignore[arg-type]
    np.testing.assert_array_equal(buffer, own.labels == 2)
    drawn = np.zeros(buffer.shape, np.uint8)
    drawn[6, 8:10, 4] = 1
    client.add_scribble_interaction(
        drawn[6:7], True, interaction_bbox=[[6, 7], [0, drawn.shape[1]], [0, drawn.shape[2]]]
    )
    own.add(Scribble(class_id=2, voxels=((6, 8, 4), (6, 9, 4))))
    np.testing.assert_array_equal(buffer, own.labels == 2)
    drawn[7, 5:9, 3:8] = 1
    client.add_lasso_interaction(drawn, False)
    own.add(Mask.from_array(drawn > 0, 2, positive=False))
    np.testing.assert_array_equal(buffer, own.labels == 2)
    client.add_bbox_interaction([[3, 9], [4, 15], [3, 14]], True)
    own.add(Box(class_id=2, start=(3, 4, 3), stop=(9, 15, 14)))
    np.testing.assert_array_equal(buffer, own.labels == 2)
    while client.undo():
        own.undo()
        np.testing.assert_array_equal(buffer, (own.labels == 2) * bool(own.log))
    assert own.log == ()
    client.close()


def test_prompts_without_prediction_are_applied_together(
    address: str, image: npt.NDArray[np.float32], own: Session
) -> None:
    client, buffer = connect(address + "/2", image)
    for point in ((4, 9, 5), (6, 7, 8)):
        client.add_point_interaction(point, True, run_prediction=False)
        own.add_point(2, point)
    assert not buffer.any()
    client._predict()
    np.testing.assert_array_equal(buffer, own.labels == 2)
    client.close()


def test_without_a_class_an_object_is_its_prompts_alone(
    address: str, image: npt.NDArray[np.float32], own: Session
) -> None:
    """One after another, each from nothing; undo goes back to nothing, and prompts go on from there."""
    client, buffer = connect(address, image)
    for class_id in (1, 2, 1):
        inside, outside = (tuple(map(int, np.argwhere(own.labels == k)[3])) for k in (class_id, 3 - class_id))
        for _ in range(2):
            thing = own.add_class("object")
            client.add_point_interaction(inside, True)
            own.add_point(thing, inside)  # type: ignore[arg-type]
            np.testing.assert_array_equal(buffer, own.labels == thing)
            assert buffer[inside]
            client.add_point_interaction(outside, False)
            own.add_point(thing, outside, positive=False)  # type: ignore[arg-type]
            np.testing.assert_array_equal(buffer, own.labels == thing)
            assert client.undo()
            own.undo()
            np.testing.assert_array_equal(buffer, own.labels == thing)
            assert client.undo()
            assert not client.undo()
            assert not buffer.any()
            own.reset()
        client.add_point_interaction(inside, True)
        client.reset_interactions()
        assert not buffer.any()
    client.close()


def test_clients_are_independent(address: str, image: npt.NDArray[np.float32], own: Session) -> None:
    first, one = connect(address + "/2", image)
    second, other = connect(address + "/1", np.ascontiguousarray(image[:, ::-1]))
    assert first._lease_token != second._lease_token
    first.add_point_interaction((4, 9, 5), True)
    second.add_point_interaction((3, 9, 9), True)
    own.add_point(2, (4, 9, 5))
    np.testing.assert_array_equal(one, own.labels == 2)
    assert (other != one).any()
    first.close()
    second.close()


def test_invalid_requests_are_refused(serve: Callable[..., TestClient]) -> None:
    client = serve(max_sessions=1)
    for path, message in (
        ("/spleen", "no such class 'spleen'"),
        ("/2/RAX", "no such axes"),
        ("/2/RRS", "no such axes"),
    ):
        answer = client.post(f"/nninteractive{path}/claim")
        assert answer.status_code in (404, 422)
        assert message in answer.json()["detail"]
    token = client.post("/nninteractive/any/claim").json()["lease_token"]
    assert client.post("/nninteractive/claim").status_code == 503
    lease = {"x-lease-token": token}
    point = {"coordinates": [1, 1, 1], "include_interaction": True}
    refused = client.post("/nninteractive/add_point_interaction", json=point, headers=lease)
    assert "set_image comes first" in refused.json()["detail"]
    assert client.post("/nninteractive/set_image", content=b"x", headers=lease).status_code == 422
    assert client.post("/nninteractive/add_point_interaction", json=point).status_code == 410
    assert client.get("/nninteractive/lease_status", headers=lease).json()["remaining_seconds"] > 0
    assert client.post("/nninteractive/release", headers=lease).json() == {"released": True}
    assert client.post("/nninteractive/heartbeat", headers=lease).status_code == 410


def test_an_evicted_session_is_restored(
    serve: Callable[..., TestClient], image: npt.NDArray[np.float32], own: Session
) -> None:
    client = serve()
    lease = {"x-lease-token": client.post("/nninteractive/2/claim").json()["lease_token"]}
    properties = {"x-meta": json.dumps({"image_properties": {"spacing": SPACING, "axes": "SPL"}})}
    sent = client.post("/nninteractive/set_image", content=pack(image), headers=lease | properties)
    assert sent.status_code == 200
    client.app.state.nninteractive.get(lease["x-lease-token"]).worker().wait_ready()  # type: ignore[attr-defined]
    seen = []
    for point in ((4, 9, 5), (6, 7, 8)):
        client.app.state.store.maintain(lambda: float("inf"))  # type: ignore[attr-defined]
        assert client.app.state.store.count == 0  # type: ignore[attr-defined]
        asked = {"coordinates": point, "include_interaction": True}
        seen.append(client.post("/nninteractive/add_point_interaction", json=asked, headers=lease))
        own.add_point(2, point)
    assert [answer.status_code for answer in seen] == [200, 200]
    token = lease["x-lease-token"]
    shown = client.app.state.nninteractive.get(token).shown  # type: ignore[attr-defined]
    np.testing.assert_array_equal(shown, own.labels == 2)
    path = client.app.state.nninteractive.get(token).image  # type: ignore[attr-defined]
    client.post("/nninteractive/release", headers=lease)
    assert not path.exists()


def test_a_rejected_prompt_is_not_counted_for_undo(
    serve: Callable[..., TestClient], image: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve()
    token = client.post("/nninteractive/2/claim").json()["lease_token"]
    lease = client.app.state.nninteractive.get(token)  # type: ignore[attr-defined]
    headers = {"x-lease-token": token}
    client.post("/nninteractive/set_image", content=pack(image), headers=headers)

    def short(*_: object) -> None:
        raise MemoryError

    def click(voxel: tuple[int, int, int]) -> int:
        asked = {"coordinates": voxel, "include_interaction": True}
        return client.post("/nninteractive/add_point_interaction", json=asked, headers=headers).status_code

    assert (click((4, 9, 5)), lease.interactions) == (200, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Session, "apply", short)
        assert (click((6, 7, 8)), lease.interactions) == (422, 1)
    assert client.post("/nninteractive/undo", headers=headers).status_code == 200
    assert (lease.interactions, lease.worker().state().entries) == (0, ())


def test_capabilities_are_what_its_clients_index(address: str, image: npt.NDArray[np.float32]) -> None:
    client = remote.nnInteractiveRemoteInferenceSession(address)
    assert [client.preferred_scribble_thickness[axis] > 0 for axis in range(3)] == [True] * 3
    assert client.supports_initial_label
    client.close()


def test_positions_between_voxels_and_boxes_beyond_the_image(
    address: str, image: npt.NDArray[np.float32], own: Session
) -> None:
    client, buffer = connect(address + "/2", image)
    i, _, k = buffer.shape
    client.add_point_interaction(np.array([4.0, 9.4, 4.6]), True)
    own.add_point(2, (4, 9, 5))
    np.testing.assert_array_equal(buffer, own.labels == 2)
    client.add_bbox_interaction([[3.2, 4.0], [15.2, -3], [10.4, k + 1]], True)
    own.add(Box(class_id=2, start=(3, 0, 10), stop=(4, 15, k)))
    np.testing.assert_array_equal(buffer, own.labels == 2)
    drawn = np.zeros((3, 4, 5), np.uint8)
    drawn[:, 1:] = 1
    client.add_scribble_interaction(drawn, False, interaction_bbox=[[i - 2, i + 1], [-1, 3], [2, 7]])
    expected = np.zeros(buffer.shape, bool)
    expected[i - 2 :, 0:3, 2:7] = True
    voxels = tuple(map(tuple, np.argwhere(expected).tolist()))
    own.add(Scribble(class_id=2, voxels=voxels, positive=False))
    np.testing.assert_array_equal(buffer, own.labels == 2)
    client.close()


def test_an_image_is_answered_before_it_is_encoded(
    serve: Callable[..., TestClient], image: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    read = SessionWorker.read_image

    def wait(worker: SessionWorker) -> Volume:
        assert released.wait(60)
        return read(worker)

    monkeypatch.setattr(SessionWorker, "read_image", wait)
    monkeypatch.setattr(lease_module, "RESPONSE_S", 0.05)
    client = serve()
    headers = {"x-lease-token": client.post("/nninteractive/2/SPL/claim").json()["lease_token"]}
    sent = client.post("/nninteractive/set_image", content=pack(image), headers=headers)
    assert sent.json() == {"original_image_shape": list(image.shape)}
    buffer = {"shape": image.shape[1:], "dtype": "uint8"}
    assert client.post("/nninteractive/set_target_buffer", json=buffer, headers=headers).status_code == 200
    click = {"coordinates": (4, 9, 5), "include_interaction": True}
    early = client.post("/nninteractive/add_point_interaction", json=click, headers=headers)
    assert (early.status_code, "retry-after" in early.headers) == (503, True)
    lease = client.app.state.nninteractive.get(headers["x-lease-token"])  # type: ignore[attr-defined]
    assert lease.worker().state().entries == ()  # so that it can be sent again
    released.set()
    monkeypatch.setattr(lease_module, "RESPONSE_S", 60.0)
    assert client.post("/nninteractive/add_point_interaction", json=click, headers=headers).status_code == 200
    assert len(lease.worker().state().entries) == 1


def test_a_guess_of_the_axes_stays_in_the_session(
    serve: Callable[..., TestClient], image: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array_geometry, "guess_axes", lambda *_: "LAS")
    client = serve()
    headers = {"x-lease-token": client.post("/nninteractive/2/claim").json()["lease_token"]}
    client.post("/nninteractive/set_image", content=pack(image), headers=headers)
    click = {"coordinates": (4, 9, 5), "include_interaction": True}
    answer = client.post("/nninteractive/add_point_interaction", json=click, headers=headers)
    assert "LAS by its content" in json.loads(answer.headers["x-meta"])["warnings"][0]
    lease = client.app.state.nninteractive.get(headers["x-lease-token"])  # type: ignore[attr-defined]
    before = lease.worker().wait_ready().labels
    assert read_geometry(lease.image).orientation.codes == "LAS"
    client.app.state.store.maintain(lambda: float("inf"))  # type: ignore[attr-defined]
    monkeypatch.setattr(array_geometry, "guess_axes", lambda *_: "SPL")
    np.testing.assert_array_equal(lease.worker().wait_ready().labels, before)
    assert "LAS by its content" in lease.worker().state().unlike[0]


@pytest.mark.parametrize("label", ["", "/2"])
def test_an_object_begins_with_a_segmentation_exactly(
    address: str, image: npt.NDArray[np.float32], own: Session, label: str
) -> None:
    client, buffer = connect(address + label, image)
    client.add_point_interaction((4, 9, 5), True)  # forgotten with the segmentation
    given = np.random.default_rng(0).random(buffer.shape) < 0.3
    client.add_initial_seg_interaction(given.astype(np.uint8), run_prediction=True)
    np.testing.assert_array_equal(buffer, given)
    assert not client.undo()
    thing = 2 if label else own.add_class("object")
    own.add(Extent.from_array(given, thing))
    np.testing.assert_array_equal(own.labels == thing, given)
    for voxel, inside in (((4, 9, 5), True), (tuple(map(int, np.argwhere(given)[40])), False)):
        client.add_point_interaction(voxel, inside)
        own.add_point(thing, voxel, inside)  # type: ignore[arg-type]
        np.testing.assert_array_equal(buffer, own.labels == thing)
    while client.undo():
        pass
    np.testing.assert_array_equal(buffer, given)
    client.add_initial_seg_interaction(np.zeros(buffer.shape, np.uint8), run_prediction=True)
    assert not buffer.any()
    with pytest.raises(httpx.HTTPStatusError, match="422"):
        client.add_initial_seg_interaction(np.ones((1, *buffer.shape[1:]), np.uint8))
    client.close()


def test_the_lease_of_a_dead_client_expires(serve: Callable[..., TestClient]) -> None:
    client = serve(max_sessions=1)
    token = client.post("/nninteractive/claim").json()["lease_token"]
    leases = client.app.state.nninteractive  # type: ignore[attr-defined]
    leases.get(token).last_seen -= lease_module.EXPIRY_S + 1
    assert client.post("/nninteractive/claim").status_code == 200
    assert client.post("/nninteractive/heartbeat", headers={"x-lease-token": token}).status_code == 410
