"""Leases: who has one, and for how long."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from threading import Semaphore
from typing import Any

import anyio
import numpy as np
import pytest
from fastapi import HTTPException
from fastapi.testclient import TestClient

from s2vnet.errors import InputError
from s2vnet.inference.segmenter import Segmenter
from s2vnet.io.geometry import Geometry
from s2vnet.server.protocols.array_codec import pack
from s2vnet.server.protocols.nninteractive import lease as lease_module
from s2vnet.server.protocols.nninteractive.array_geometry import ImageProperties
from s2vnet.server.protocols.nninteractive.lease import EXPIRY_S, LIVENESS_S, LeasedClients
from s2vnet.server.session_worker import SessionWorker


@pytest.fixture
def clients(serve: Callable[..., TestClient]) -> LeasedClients:
    return serve().app.state.nninteractive  # type: ignore[attr-defined, no-any-return]


def wait_until_idle(worker: SessionWorker) -> None:
    end = time.monotonic() + 60
    while worker.busy:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_classes_are_known_by_name_and_number(clients: LeasedClients) -> None:
    assert [clients.claim(label, None).class_id for label in ("right", "2")] == [2, 2]
    for label in ("any", None):
        with pytest.raises(InputError, match="no image yet"):
            _ = clients.claim(label, None).class_id
    with pytest.raises(InputError, match="no such class"):
        clients.claim("spleen", None)
    with pytest.raises(InputError, match="no such axes"):
        clients.claim(None, "RAX")


def test_other_channels_than_the_models_are_refused_at_once(clients: LeasedClients) -> None:
    with pytest.raises(InputError, match="an image of 3 channels"):
        clients.claim(None, "SPL").set_image(pack(np.zeros((3, 4, 5, 6), np.uint8)), ImageProperties())


def test_an_idle_lease_ends_despite_heartbeats(clients: LeasedClients) -> None:
    lease = clients.claim(None, None)
    lease.last_active -= clients.store.settings.lease_s + 1
    with pytest.raises(HTTPException):
        clients.get(lease.name)


def test_an_image_that_needs_more_memory_than_the_server_has_is_not_unpacked(
    clients: LeasedClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = clients.claim(None, "SPL")
    needed = clients.store.models.first.segmenter.opening_nbytes(Geometry.from_codes((40, 50, 60), (1, 1, 1), "SPL"))
    message = pack(np.zeros((1, 40, 50, 60), np.uint8))
    monkeypatch.setattr(clients.store.memory, "limit", needed - 1)
    with pytest.raises(InputError, match="opening this scan needs"):
        lease.set_image(message[:-3], ImageProperties())  # damaged, which is not noticed before
    monkeypatch.setattr(clients.store.memory, "limit", needed)
    assert lease.set_image(message, ImageProperties()) == {"original_image_shape": [1, 40, 50, 60]}


def test_clients_that_have_left_are_removed(clients: LeasedClients) -> None:
    lease = clients.claim(None, None)
    clients.expire()
    assert clients.get(lease.name) is lease
    lease.last_seen -= EXPIRY_S + 1
    clients.expire()
    assert not clients.remove(lease.name)


def test_a_scan_is_not_opened_for_a_client_that_has_left(
    clients: LeasedClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its next request goes on, and finds the axes of the array as if it had never been away."""
    begun = Semaphore(0)

    def endless(segmenter: Segmenter, case: Any, model: Any, progress: Callable[[int, int], None], **_: Any) -> None:
        begun.release()
        while True:
            progress(0, 10)
            time.sleep(0.01)

    def guess(_: Segmenter, path: Path, between: Callable[[], None]) -> str:
        return f"guessed for {path.suffix}"

    monkeypatch.setattr(lease_module, "orient_by_content", guess)
    lease = clients.claim(None, None)
    with monkeypatch.context() as patch:
        patch.setattr(Segmenter, "encode", endless)
        lease.set_image(pack(np.zeros((1, 8, 9, 10), np.uint8)), ImageProperties())
        worker = lease.worker()
        assert begun.acquire(timeout=60)
        lease.last_seen -= LIVENESS_S / 2
        clients.expire()
        assert worker.busy
        lease.last_seen -= LIVENESS_S
        clients.expire()
        wait_until_idle(worker)
        assert worker.state().status == "opening"
        assert clients.get(lease.name).worker() is worker  # its next request
        assert begun.acquire(timeout=60)
        worker.suspend()
        wait_until_idle(worker)
    lease.worker().wait_ready()
    assert worker.warnings == ("guessed for .nii",)


def test_a_client_that_waits_for_a_response_has_not_left(clients: LeasedClients) -> None:
    lease = clients.claim(None, None)
    lease.last_seen -= LIVENESS_S + 1
    assert lease.is_silent
    seen: list[bool] = []

    async def wait() -> None:
        await lease.queue.run(lambda _: seen.append(lease.is_silent))

    anyio.run(wait)
    assert seen == [False]
    assert lease.is_silent
