"""Clients of one-object protocols: places, expiry, and what they leave behind."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from s2vnet.errors import InputError
from s2vnet.server.protocols.one_object_client import ObjectClient, ObjectClients
from s2vnet.server.scan_library import CapacityError


class Store:
    """Session store that records which sessions end."""

    def __init__(self) -> None:
        self.settings = SimpleNamespace(max_sessions=2)
        self.ended: list[str] = []

    def end(self, name: str) -> None:
        self.ended.append(name)
        raise InputError("no such session")  # it may have ended by itself


class Client(ObjectClient):
    upload_route = "upload"
    expired = False


class Clients(ObjectClients[Client]):
    def _expired(self, now: float) -> list[Client]:
        return [client for client in self._clients.values() if client.expired]


@pytest.fixture
def store() -> Any:
    return Store()


def test_expired_clients_make_room_and_their_sessions_end(store: Any, tmp_path: Path) -> None:
    clients = Clients(store)
    first, _ = clients.add(Client(store, 1)), clients.add(Client(store, 1))
    with pytest.raises(CapacityError, match="all 2 sessions are taken"):
        clients.add(Client(store, 1))
    image = tmp_path / "image.nii"
    image.write_bytes(b"")
    first.attach(SimpleNamespace(name="session", path=image), (1, 2, 3))  # type: ignore[arg-type]
    first.expired = True
    clients.add(Client(store, 1))
    assert store.ended == ["session"]
    assert not image.exists()
    assert not clients.remove(first.name)


def test_a_client_is_removed_once(store: Any) -> None:
    clients = Clients(store)
    client = clients.add(Client(store, 1))
    assert [clients.remove(client.name), clients.remove(client.name)] == [True, False]
    assert store.ended == []  # it had no session


def test_a_reset_forgets_the_class_that_a_prompt_chose(store: Any) -> None:
    free, fixed = Client(store, None), Client(store, 2)
    for client in (free, fixed):
        client.class_id = 7
        client.reset_prompts()
    assert (free.class_id, fixed.class_id) == (None, 2)


def test_without_an_image_there_is_no_session(store: Any) -> None:
    with pytest.raises(InputError, match="no image yet; upload comes first"):
        Client(store, 1).worker()
