"""Clients of one-object protocols: places, expiry, and what they leave behind."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from s2vnet.errors import CapacityError, InputError
from s2vnet.prompts import Entry, NewClass, Point
from s2vnet.server.client_watch import ClientGone
from s2vnet.server.protocols.one_object_client import ObjectClient, ObjectClients, Target, object_class
from s2vnet.server.schemas import Add

MODEL: Any = SimpleNamespace(name="model", classes={0: "background", 1: "left", 2: "right"}, channels=1)
LEFT = Target(MODEL, 1)


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
    first, _ = clients.add(Client(store, LEFT)), clients.add(Client(store, LEFT))
    with pytest.raises(CapacityError, match="all 2 sessions are taken"):
        clients.add(Client(store, LEFT))
    image = tmp_path / "image.nii"
    image.write_bytes(b"")
    first.attach(SimpleNamespace(name="session", path=image, model=MODEL), (1, 2, 3))  # type: ignore[arg-type]
    first.expired = True
    clients.add(Client(store, LEFT))
    assert store.ended == ["session"]
    assert not image.exists()
    assert not clients.remove(first.name)


def test_an_image_whose_client_leaves_while_it_is_encoded_is_removed(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, image = Client(store, LEFT), tmp_path / "image.nii"

    def leave(*_: object) -> None:
        raise ClientGone("left")

    image.write_bytes(b"")
    client.attach(SimpleNamespace(name="session", path=image, model=MODEL), (1, 2, 3))  # type: ignore[arg-type]
    monkeypatch.setattr(client, "worker", lambda: SimpleNamespace(wait_ready=leave))
    with pytest.raises(ClientGone):
        client.wait_open(1.0)
    assert (store.ended, image.exists()) == (["session"], False)


def test_a_client_is_removed_once(store: Any) -> None:
    clients = Clients(store)
    client = clients.add(Client(store, LEFT))
    assert [clients.remove(client.name), clients.remove(client.name)] == [True, False]
    assert store.ended == []  # it had no session


class Worker:
    """Session worker that keeps its log."""

    name, path, model = "session", Path("image.nii"), MODEL

    def __init__(self) -> None:
        self.log: tuple[Entry, ...] = ()

    def apply(self, operation: Add) -> None:
        self.log += operation.entries


def test_an_object_of_its_own_gets_a_class_with_its_first_prompt(store: Any) -> None:
    free, fixed = Client(store, Target()), Client(store, Target(MODEL, 2))
    for client, expected in ((free, (NewClass(class_id=3, name="object"),)), (fixed, ())):
        worker: Any = Worker()
        client.attach(worker, (4, 4, 4))
        clicks = [Point(class_id=client.class_id, voxel=(1, 2, n)) for n in range(2)]
        for click in clicks:
            client.add_prompt(worker, click)
        assert worker.log == (*expected, *clicks)


def test_an_object_differs_in_name_and_value_from_the_models_classes() -> None:
    assert object_class({0: "background", 1: "Object", 2: "object 2"}) == NewClass(class_id=3, name="object 3")
    with pytest.raises(InputError, match="no label value is left"):
        object_class({n: f"c{n}" for n in range(256)})


def test_without_an_image_there_is_no_session(store: Any) -> None:
    with pytest.raises(InputError, match="no image yet; upload comes first"):
        Client(store, LEFT).worker()
