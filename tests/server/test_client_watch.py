"""Nothing is computed for clients that have closed their connection."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI
from listening import listening

from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.server.app import create_app
from s2vnet.server.client_watch import ClientGone, ClientWatch
from s2vnet.server.settings import Settings

CLICK = {"params": '{"right": [[5, 9, 4]]}'}


class Connection:
    """Connection that the client closes after the first look."""

    def __init__(self) -> None:
        self.looks = 0

    async def is_disconnected(self) -> bool:
        self.looks += 1
        return self.looks > 1


@pytest.fixture
def running(settings: Callable[..., Settings], segmenter: Segmenter) -> Iterator[tuple[str, FastAPI]]:
    """Address of a server that listens, and its application."""
    app = create_app(settings(), segmenter)
    with listening(app) as address:
        yield address, app


def wait_for(test: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_client_is_required_until_it_leaves() -> None:
    client = ClientWatch(Connection())  # type: ignore[arg-type]
    client.require()
    anyio.run(client.follow)
    with pytest.raises(ClientGone):
        client.require()


def test_opening_ends_when_the_client_has_left(running: tuple[str, FastAPI], monkeypatch: pytest.MonkeyPatch) -> None:
    address, app = running
    ended = threading.Event()

    def encode(_: Segmenter, case: Any, model: Any, progress: Callable[[int, int], None], **more: Any) -> None:
        try:
            while True:
                progress(0, 10)
                time.sleep(0.01)
        finally:
            ended.set()

    with monkeypatch.context() as patch:
        patch.setattr(Segmenter, "encode", encode)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{address}/infer/automatic?image=one.nii.gz&output=json", data={}, timeout=0.5)
        assert ended.wait(10)
        wait_for(lambda: app.state.store.count == 0)
    answer = httpx.post(f"{address}/infer/automatic?image=one.nii.gz&output=json", data={}, timeout=60)
    assert answer.status_code == 200


def test_prompts_are_given_up_when_the_client_has_left(
    running: tuple[str, FastAPI], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, app = running
    url = f"{address}/infer/clicks?image=one.nii.gz&output=json"
    assert httpx.post(url, data={}, timeout=60).status_code == 200
    ended = threading.Event()

    def apply(_: Session, history: Any, on_slice: Any, on_step: Callable[[], None]) -> None:
        try:
            while True:
                on_step()
                time.sleep(0.01)
        finally:
            ended.set()

    with monkeypatch.context() as patch:
        patch.setattr(Session, "apply", apply)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url, data=CLICK, timeout=0.5)
        assert ended.wait(10)
    (worker,) = app.state.store._workers.values()
    wait_for(lambda: not worker.busy)
    assert worker.log == ()
    assert httpx.post(url, data=CLICK, timeout=60).status_code == 200
    assert len(worker.log) == 1


def test_a_request_for_labels_ends_and_its_session_goes_on(
    running: tuple[str, FastAPI], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, app = running
    released, encode = threading.Event(), Segmenter.encode

    def slow(*arguments: Any, **more: Any) -> Any:
        assert released.wait(60)
        return encode(*arguments, **more)

    monkeypatch.setattr(Segmenter, "encode", slow)
    name = httpx.post(f"{address}/api/sessions", json={"image": "one.nii.gz"}).json()["session"]
    labels, queue = f"{address}/api/sessions/{name}/labels", app.state.store.get(name).label_queue
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(labels, timeout=0.5)
    assert queue._limiter.borrowed_tokens == 1
    wait_for(lambda: queue._limiter.borrowed_tokens == 0)
    released.set()
    assert httpx.get(labels, timeout=60).status_code == 200


def test_work_that_the_next_request_needs_goes_on(
    running: tuple[str, FastAPI], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, _ = running
    begun, released = [], threading.Event()
    encode = Segmenter.encode

    def slow(segmenter: Segmenter, case: Any, model: Any, progress: Callable[[int, int], None], **more: Any) -> Any:
        begun.append(case)
        while not released.is_set():
            progress(0, 10)
            time.sleep(0.01)
        return encode(segmenter, case, model, progress, **more)

    monkeypatch.setattr(Segmenter, "encode", slow)
    url = f"{address}/infer/automatic?image=one.nii.gz&output=json"
    answers = []

    def leave() -> None:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url, data={}, timeout=1.5)

    first = threading.Thread(target=leave)
    second = threading.Thread(target=lambda: answers.append(httpx.post(url, data={}, timeout=60)))
    first.start()
    wait_for(lambda: len(begun) == 1)
    second.start()
    first.join()
    time.sleep(2.5)  # the server notices within POLL_S
    released.set()
    second.join()
    assert answers[0].status_code == 200
    assert len(begun) == 1
