"""Nothing is computed for clients that have closed their connection."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlencode, urlsplit

import anyio
import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from listening import listening

from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.server.app import create_app
from s2vnet.server.client_watch import ClientGone, ClientWatch
from s2vnet.server.model_library import ModelLibrary
from s2vnet.server.protocols.array_codec import pack
from s2vnet.server.settings import Settings

CLICK = {"params": '{"right": [[5, 9, 4]]}'}
FORM, JSON = "application/x-www-form-urlencoded", "application/json"
PATIENCE_S = 60.0


class Connection:
    """Connection that the client closes after the first look."""

    def __init__(self) -> None:
        self.looks = 0

    async def is_disconnected(self) -> bool:
        self.looks += 1
        return self.looks > 1


@pytest.fixture
def running(settings: Callable[..., Settings], library: ModelLibrary) -> Iterator[tuple[str, FastAPI]]:
    """Address of a server that listens, and its application."""
    app = create_app(settings(), library)
    with listening(app) as address:
        yield address, app


def wait_for(test: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not test():
        assert time.monotonic() < end
        time.sleep(0.02)


@contextmanager
def leaving(url: str, method: str, content: str = "", **headers: str) -> Iterator[None]:
    """A request is under way in the block, at whose end the client closes the connection without any response."""
    address = urlsplit(url)
    connection = HTTPConnection(str(address.netloc), timeout=PATIENCE_S)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, f"{address.path}?{address.query}", content, sent)
    try:
        yield
    finally:
        connection.close()


class Endless:
    """Stands for work of the network that never ends by itself."""

    def __init__(self) -> None:
        self.begun, self.ended = threading.Event(), threading.Event()

    def encode(self, _: Segmenter, case: Any, model: Any, progress: Callable[[int, int], None], **more: Any) -> None:
        """As :meth:`Segmenter.encode`."""
        self._run(lambda: progress(0, 10))

    def apply(self, _: Session, history: Any, on_slice: Any, on_step: Callable[[], None]) -> None:
        """As :meth:`Session.apply`."""
        self._run(on_step)

    def _run(self, step: Callable[[], None]) -> None:
        self.begun.set()
        try:
            while True:
                step()
                time.sleep(0.01)
        finally:
            self.ended.set()


@pytest.fixture
def endless() -> Endless:
    return Endless()


def test_a_client_is_required_until_it_leaves() -> None:
    client = ClientWatch(Connection())  # type: ignore[arg-type]
    client.require()
    anyio.run(client.follow)
    with pytest.raises(ClientGone):
        client.require()


def test_opening_ends_when_the_client_has_left(
    running: tuple[str, FastAPI], monkeypatch: pytest.MonkeyPatch, endless: Endless
) -> None:
    address, app = running
    url = f"{address}/infer/automatic?image=one.nii.gz&output=json"
    with monkeypatch.context() as patch:
        patch.setattr(Segmenter, "encode", lambda *given, **more: endless.encode(*given, **more))
        with leaving(url, "POST", content_type=FORM):
            assert endless.begun.wait(PATIENCE_S)
        assert endless.ended.wait(PATIENCE_S)
        wait_for(lambda: app.state.store.count == 0)
    assert httpx.post(url, data={}, timeout=PATIENCE_S).status_code == 200


def test_prompts_are_given_up_when_the_client_has_left(
    running: tuple[str, FastAPI], monkeypatch: pytest.MonkeyPatch, endless: Endless
) -> None:
    address, app = running
    url = f"{address}/infer/clicks?image=one.nii.gz&output=json"
    assert httpx.post(url, data={}, timeout=PATIENCE_S).status_code == 200
    with monkeypatch.context() as patch:
        patch.setattr(Session, "apply", lambda *given: endless.apply(*given))
        with leaving(url, "POST", urlencode(CLICK), content_type=FORM):
            assert endless.begun.wait(PATIENCE_S)
        assert endless.ended.wait(PATIENCE_S)
    (worker,) = app.state.store._workers.values()
    wait_for(lambda: not worker.busy)
    assert worker.log == ()
    assert httpx.post(url, data=CLICK, timeout=PATIENCE_S).status_code == 200
    assert len(worker.log) == 1


def test_interactions_are_given_up_when_nninteractives_client_has_left(
    running: tuple[str, FastAPI], monkeypatch: pytest.MonkeyPatch, endless: Endless
) -> None:
    """They are neither shown nor undone, and may be sent again."""
    address, app = running
    root = f"{address}/nninteractive"
    lease = {"x-lease-token": httpx.post(f"{root}/2/SPL/claim").json()["lease_token"]}
    image = np.random.default_rng(0).random((1, 6, 7, 8)).astype(np.float32)
    sent = httpx.post(f"{root}/set_image", content=pack(image), headers=lease)
    assert sent.status_code == 200, sent.text
    client = app.state.nninteractive.get(lease["x-lease-token"])

    def click(k: int) -> dict[str, Any]:
        return {"coordinates": [3, 3, k], "include_interaction": True}

    def send(k: int) -> int:
        url = f"{root}/add_point_interaction"
        return httpx.post(url, json=click(k), headers=lease, timeout=PATIENCE_S).status_code

    assert send(2) == 200
    shown = client.shown.copy()
    with monkeypatch.context() as patch:
        patch.setattr(Session, "apply", lambda *given: endless.apply(*given))
        headers = {**lease, "content-type": JSON}
        with leaving(f"{root}/add_point_interaction", "POST", json.dumps(click(5)), **headers):
            assert endless.begun.wait(PATIENCE_S)
        assert endless.ended.wait(PATIENCE_S)
    wait_for(lambda: not client.queue.num_open)
    assert (client.interactions, len(client.worker().log)) == (1, 1)
    np.testing.assert_array_equal(client.shown, shown)
    assert send(5) == 200
    assert (client.interactions, len(client.worker().log)) == (2, 2)


def test_interactions_are_given_up_when_itksnap_has_left(
    running: tuple[str, FastAPI], monkeypatch: pytest.MonkeyPatch, endless: Endless
) -> None:
    address, app = running
    name = httpx.get(f"{address}/v2/start_session/s2vnet-right").json()["session_id"]
    array = np.random.default_rng(0).random((8, 7, 6)).astype("<f4")
    sent = {"file": gzip.compress(array.tobytes())}
    grid = {"metadata": json.dumps({"dimensions": [6, 7, 8]})}
    opened = httpx.post(f"{address}/v2/upload_raw/{name}", files=sent, data=grid, timeout=PATIENCE_S)
    assert opened.status_code == 200
    url = f"{address}/v2/process_point_interaction/{name}?point=3&point=3&point=2&foreground=true"
    with monkeypatch.context() as patch:
        patch.setattr(Session, "apply", lambda *given: endless.apply(*given))
        with leaving(url, "GET"):
            assert endless.begun.wait(PATIENCE_S)
        assert endless.ended.wait(PATIENCE_S)
    client = app.state.itksnap.get(name)
    wait_for(lambda: not client.queue.num_open)
    assert client.worker().log == ()
    assert httpx.get(url, timeout=PATIENCE_S).status_code == 200
    assert len(client.worker().log) == 1


def test_a_request_for_labels_ends_and_its_session_goes_on(
    running: tuple[str, FastAPI], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, app = running
    released, encode = threading.Event(), Segmenter.encode

    def slow(*arguments: Any, **more: Any) -> Any:
        assert released.wait(PATIENCE_S)
        return encode(*arguments, **more)

    monkeypatch.setattr(Segmenter, "encode", slow)
    name = httpx.post(f"{address}/api/sessions", json={"image": "one.nii.gz"}).json()["session"]
    labels, queue = f"{address}/api/sessions/{name}/labels", app.state.store.get(name).label_queue
    with leaving(labels, "GET"):
        wait_for(lambda: queue.num_open == 1)
    wait_for(lambda: queue.num_open == 0)
    released.set()
    assert httpx.get(labels, timeout=PATIENCE_S).status_code == 200


def test_work_that_the_next_request_needs_goes_on(
    running: tuple[str, FastAPI], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, app = running
    begun, released = list[Any](), threading.Event()
    encode = Segmenter.encode

    def slow(segmenter: Segmenter, case: Any, model: Any, progress: Callable[[int, int], None], **more: Any) -> Any:
        begun.append(case)
        while not released.is_set():
            progress(0, 10)
            time.sleep(0.01)
        return encode(segmenter, case, model, progress, **more)

    monkeypatch.setattr(Segmenter, "encode", slow)
    url = f"{address}/infer/automatic?image=one.nii.gz&output=json"
    answers: list[httpx.Response] = []
    second = threading.Thread(target=lambda: answers.append(httpx.post(url, data={}, timeout=PATIENCE_S)))
    with leaving(url, "POST", content_type=FORM):
        wait_for(lambda: len(begun) == 1)
        queue = app.state.monailabel.queue("one.nii.gz")
        second.start()
        wait_for(lambda: queue.num_waiting == 1)
    wait_for(lambda: queue.num_waiting == 0)  # the first has ended
    released.set()
    second.join()
    assert answers[0].status_code == 200
    assert len(begun) == 1
