"""A server that is killed at any moment keeps what it has acknowledged.

Real servers, in processes of their own, which get no signal that they could handle.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage
from server_process import serve
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from s2vnet.interactive.history import History
from s2vnet.io.files import read_labels, write_image
from s2vnet.io.geometry import Geometry, Volume
from s2vnet.prompts import Entry, Lock, Point
from s2vnet.server.schemas import unpack_block
from s2vnet.server.settings import Settings

SHAPE = (24, 24, 150)
KILLS = int(os.environ.get("S2VNET_KILLS", "2"))
"""Of servers; more for a longer check."""
TIMEOUT_S = 60
pytestmark = [pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL"), pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one scan of many slices, so that there is time to be killed in."""
    folder = tmp_path_factory.mktemp("scans")
    rng = np.random.default_rng(3)
    voxels = ndimage.gaussian_filter(rng.normal(0, 1, SHAPE), 1.5) * 400 + rng.normal(500, 5, SHAPE)
    write_image(folder / "long.nii.gz", Volume(voxels.astype(np.float32)[None], Geometry(SHAPE, np.eye(4))))
    return folder


@pytest.fixture
def make(scans: Path, model_folder: Path, tmp_path: Path) -> Callable[[], Settings]:
    """Settings of servers with one state folder."""
    return lambda: Settings(models=(str(model_folder),), data=scans, state=tmp_path / "state", port=0, device="cpu")


@contextmanager
def by_command(settings: Settings) -> Iterator[tuple[str, Callable[[], None]]]:
    """Start `s2vnet serve`; yield its address and a function that kills it."""
    command = [sys.executable, "-m", "s2vnet", "serve", "-m", settings.models[0], "--data", str(settings.data)]
    command += ["--state", str(settings.state), "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[-1], process.kill
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL


@contextmanager
def by_call(settings: Settings) -> Iterator[tuple[str, Callable[[], None]]]:
    """Start a server in a process forked from one that has imported everything; faster than a command."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["s2vnet.server.run"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=serve, args=(settings, sender))
    process.start()
    sender.close()
    try:
        assert receiver.poll(TIMEOUT_S)
        yield receiver.recv(), process.kill
    finally:
        process.kill()
        process.join(TIMEOUT_S)
        receiver.close()
    assert process.exitcode == -signal.SIGKILL


class Client:
    """Client of a session's WebSocket; keeps the latest state and counts partial blocks."""

    def __init__(self, address: str, name: str | None = None) -> None:
        self.http = httpx2.Client(base_url=address, timeout=TIMEOUT_S)
        if name is None:
            name = self.http.post("/api/sessions", json={"image": "long.nii.gz"}).json()["session"]
        self.name, self.state, self.parts = name, {}, 0
        self.live = connect(f"{address.replace('http', 'ws', 1)}api/sessions/{name}/live", max_size=None)

    def __enter__(self) -> Client:
        self.socket = self.live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.live.__exit__(*error)
        self.http.close()

    def until(self, done: Callable[[Client], bool]) -> Client:
        while not done(self):
            message = self.socket.recv(TIMEOUT_S)
            if isinstance(message, bytes):
                self.parts += not unpack_block(message)[0].final
            else:
                self.state = json.loads(message)
                assert self.state["type"] == "state", message
        return self

    def send(self, **operation: Any) -> None:
        self.socket.send(json.dumps(operation))

    def add(self, *entries: Entry) -> None:
        self.send(op="add", entries=[entry.model_dump(mode="json") for entry in entries])

    def labels(self, folder: Path) -> npt.NDArray[np.uint8]:
        (folder / "labels.nii.gz").write_bytes(self.http.get(f"/api/sessions/{self.name}/labels").content)
        return read_labels(folder / "labels.nii.gz").data


def ready(client: Client) -> bool:
    return bool(client.state.get("status") == "ready")


def revision(client: Client) -> int:
    return int(client.state.get("revision", -1))


def dumped(entries: tuple[Entry, ...]) -> list[dict[str, Any]]:
    return [entry.model_dump(mode="json") for entry in entries]


def require_same_as_undisturbed(address: str, name: str, entries: tuple[Entry, ...], folder: Path) -> None:
    """The session has these entries, and the labels that another one has which gets them in one go."""
    with Client(address, name) as client, Client(address) as other:
        client.until(ready)
        assert client.state["entries"] == dumped(entries)
        other.send(op="replace", entries=dumped(entries))
        np.testing.assert_array_equal(client.labels(folder), other.labels(folder))
        other.http.delete(f"/api/sessions/{other.name}").raise_for_status()


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def test_a_server_killed_after_a_prompt_restores_its_sessions(make: Callable[[], Settings], tmp_path: Path) -> None:
    settings = make()
    first = (Point(class_id=2, voxel=(12, 12, 75)), Lock(class_id=1), Point(class_id=2, voxel=(5, 6, 20)))
    second = (Point(class_id=1, voxel=(8, 12, 40)),)
    with by_command(settings) as (address, kill), Client(address) as client:
        client.until(ready)
        with Client(address) as opening:
            opening.add(*second)
            opening.until(lambda c: revision(c) == 1)
            assert opening.state["status"] == "opening"
            client.add(*first)
            client.until(lambda c: revision(c) == 1)
            kill()
            names = client.name, opening.name
    with by_call(settings) as (address, _):
        for name, entries in zip(names, (first, second), strict=True):
            require_same_as_undisturbed(address, name, entries, tmp_path)
    assert files_in(settings.state) == {".running", *(f"sessions/{name}/session.json" for name in names)}


def send_random_operation(client: Client, histories: list[History], rng: np.random.Generator) -> None:
    """One operation more, and mostly its acknowledgement."""
    history = histories[-1]
    if history.log and rng.random() < 0.3:
        index = int(rng.integers(len(history.log)))
        histories.append(history.remove(index))
        client.send(op="remove", index=index)
    else:
        i, j, k = (int(rng.integers(n)) for n in SHAPE)
        histories.append(history.add(Point(class_id=int(rng.integers(3)), voxel=(i, j, k))))
        client.add(*histories[-1].log[-1:])
    if rng.random() < 0.7:
        client.until(lambda c: revision(c) == len(histories) - 1)


def test_a_server_killed_at_any_moment_keeps_acknowledged_operations(
    make: Callable[[], Settings], tmp_path: Path
) -> None:
    settings, rng = make(), np.random.default_rng(int(os.environ.get("S2VNET_SEED", "0")))
    name, histories = None, [History()]
    for _ in range(KILLS):
        with by_call(settings) as (address, kill), Client(address, name) as client:
            client.until(lambda c: bool(c.state))
            name, taken = client.name, client.state["revision"]
            assert client.state["entries"] == dumped(histories[taken].log)
            del histories[taken + 1 :]  # asked for, but never acknowledged
            timer = threading.Timer(rng.uniform(0, 1.5), kill)
            timer.start()
            with contextlib.suppress(ConnectionClosed):
                while True:
                    send_random_operation(client, histories, rng)
            timer.join(TIMEOUT_S)
            assert client.state["revision"] >= taken
            acknowledged = client.state["revision"]
        assert files_in(settings.state) >= {f"sessions/{name}/session.json"}
        assert json.loads((settings.state / "sessions" / name / "session.json").read_text())["revision"] >= acknowledged
    with by_call(settings) as (address, _):
        with Client(address, name) as client:
            taken = client.until(lambda c: bool(c.state)).state["revision"]
        assert len(histories) > taken >= acknowledged > 0
        require_same_as_undisturbed(address, str(name), histories[taken].log, tmp_path)
    assert files_in(settings.state) == {".running", f"sessions/{name}/session.json"}
