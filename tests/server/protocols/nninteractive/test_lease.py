"""Leases: who has one, and for how long."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from fastapi import HTTPException
from fastapi.testclient import TestClient

from s2vnet.errors import InputError
from s2vnet.io.geometry import Geometry
from s2vnet.server.protocols.array_codec import pack
from s2vnet.server.protocols.nninteractive.array_geometry import ImageProperties
from s2vnet.server.protocols.nninteractive.lease import LIVENESS_S, LeasedClients


@pytest.fixture
def clients(serve: Callable[..., TestClient]) -> LeasedClients:
    return serve().app.state.nninteractive  # type: ignore[attr-defined, no-any-return]


def test_classes_are_known_by_name_and_number(clients: LeasedClients) -> None:
    assert [clients.claim(label, None).class_id for label in ("right", "2", "any", None)] == [2, 2, 3, 3]
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
    needed = clients.store.segmenter.opening_nbytes(Geometry.from_codes((40, 50, 60), (1, 1, 1), "SPL"))
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
    lease.last_seen -= LIVENESS_S + 1
    clients.expire()
    assert not clients.remove(lease.name)
