"""A server in this process, with a random model and a folder of two scans."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.io.files import write_image
from s2vnet.io.geometry import Volume
from s2vnet.server.app import create_app
from s2vnet.server.model_library import ModelLibrary
from s2vnet.server.session_store import SessionStore
from s2vnet.server.settings import Settings

HOST = "http://127.0.0.1:1537"


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory, bordered: Volume) -> Path:
    """A folder of two scans and another file."""
    folder = tmp_path_factory.mktemp("data")
    write_image(folder / "one.nii.gz", bordered)
    (folder / "more").mkdir()
    write_image(folder / "more" / "two.nii.gz", Volume(np.flip(bordered.data, 2).copy(), bordered.geometry))
    (folder / "notes.txt").write_text("no scan")
    return folder


@pytest.fixture
def sent_series(tmp_path: Path, write_series: Callable[..., None]) -> tuple[Path, bytes]:
    """A DICOM series in a folder, and a .zip of it."""
    series = tmp_path / "series"
    series.mkdir()
    write_series(series, np.random.default_rng(0).integers(0, 900, (18, 20, 6)).astype(np.int16))
    packed = shutil.make_archive(str(tmp_path / "series"), "zip", series)
    return series, Path(packed).read_bytes()


@pytest.fixture
def settings(data: Path, tmp_path: Path, model_folder: Path) -> Callable[..., Settings]:
    """``settings(**changes)``"""

    def make(**changes: Any) -> Settings:
        return Settings(**({"models": (str(model_folder),), "data": data, "state": tmp_path / "state"} | changes))

    return make


@pytest.fixture(scope="module")
def unlimited(data: Path, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings for all requests of a module's tests together."""
    many = {"max_sessions": 10**6, "requests_per_minute": 10**6}
    return Settings(models=(str(model_folder),), data=data, state=tmp_path_factory.mktemp("state"), **many)


@pytest.fixture
def serve(settings: Callable[..., Settings], library: ModelLibrary) -> Iterator[Callable[..., TestClient]]:
    """``serve(**changes)``: a client of a running server; several share the state folder, as after a restart."""
    clients: list[TestClient] = []

    def start(**changes: Any) -> TestClient:
        client = TestClient(
            create_app(settings(**changes), library),
            base_url=HOST,
            client=("127.0.0.1", 50000),
        )
        clients.append(client)
        return client.__enter__()

    yield start
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(serve: Callable[..., TestClient]) -> TestClient:
    """Of a server with its default settings."""
    return serve()


@pytest.fixture
def local(segmenter: Segmenter, bordered: Volume) -> Session:
    """A local session on the same image."""
    return Session(segmenter, bordered)


@pytest.fixture
def make(settings: Callable[..., Settings], library: ModelLibrary) -> Callable[..., SessionStore]:
    """``make(**changes)``: a store; all share a state folder."""
    return lambda **changes: SessionStore(settings(**changes), library)
