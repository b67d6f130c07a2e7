"""The clients' code, as `make clients` downloads it, and a server with a random model for it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from listening import listening

from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.io.files import read_image, write_image
from s2vnet.io.geometry import Volume
from s2vnet.server.app import create_app
from s2vnet.server.model_library import ModelLibrary
from s2vnet.server.settings import Settings

VARIABLE = "S2VNET_CLIENTS"
Serve = Callable[..., str]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip these tests unless the clients' code is there."""
    if VARIABLE not in os.environ:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="the clients' own code is run by `make clients`"))


@pytest.fixture(scope="session")
def clients() -> Path:
    """Folder with the clients' code."""
    return Path(os.environ[VARIABLE]).resolve()


@pytest.fixture
def scans(tmp_path: Path, bordered: Volume, write_series: Callable[..., None]) -> Path:
    """Two patients with equal file names, and a DICOM series in a folder of another name."""
    folder = tmp_path / "scans"
    for patient, data in (("a", bordered.data), ("b", np.flip(bordered.data, 2).copy())):
        (folder / patient).mkdir(parents=True)
        write_image(folder / patient / "image.nii.gz", Volume(data, bordered.geometry))
    (folder / "series").mkdir()
    write_series(folder / "series", np.random.default_rng(0).integers(0, 900, (18, 20, 6)).astype(np.int16))
    return folder


@pytest.fixture
def serve(scans: Path, tmp_path: Path, model_folder: Path, segmenter: Segmenter) -> Iterator[Serve]:
    """``serve(**settings)``: the address of a running server."""
    with contextlib.ExitStack() as servers:

        def start(**changes: Any) -> str:
            settings = Settings(
                **({"models": (str(model_folder),), "data": scans, "state": tmp_path / "state"} | changes)
            )
            return servers.enter_context(listening(create_app(settings, ModelLibrary.of(segmenter, model_folder))))

        yield start


@pytest.fixture
def own(segmenter: Segmenter, scans: Path) -> Callable[[str], Session]:
    """``own(name)``: a session on a scan, without a server."""
    return lambda name: Session(segmenter, read_image(scans / name))
