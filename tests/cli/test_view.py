"""``s2vnet view``: the web page of one scan."""

from __future__ import annotations

import socket
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Main

from s2vnet.io.files import read_image, write_image
from s2vnet.io.geometry import Geometry, Volume


def test_view_opens_the_page_of_its_one_scan(
    main: Main, image: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s2vnet.server.app import create_app
    from s2vnet.server.settings import Settings

    opened: list[str] = []
    ports: list[int | None] = []

    def serve(settings: Settings, started: Any, preferred_port: int | None) -> None:
        ports.append(preferred_port)
        application = create_app(settings)
        started("http://127.0.0.1:1/", application)
        name = opened[-1].partition("#")[2]
        assert application.state.store.get(name).wait_ready(60).geometry.shape == read_image(image).geometry.shape
        application.state.store.close()

    monkeypatch.setattr("s2vnet.server.app.viewer_hint", lambda: None)
    monkeypatch.setattr("s2vnet.server.run.run", serve)
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert main("view", image, "-m", model, "--state", tmp_path / "state")[0] == 0
    assert opened[0].startswith("http://127.0.0.1:1/?token=")
    assert main("view", image, "-m", model, "--state", tmp_path / "state")[0] == 0
    assert opened[1] == opened[0]
    assert ports == [None, 1]


@pytest.fixture
def brain(tmp_path: Path) -> Path:
    """Voxels as of an MR: none below 0."""
    voxels = np.random.default_rng(0).gamma(2, 100, (1, 12, 14, 6)).astype(np.float32)
    write_image(tmp_path / "brain.nii.gz", Volume(voxels, Geometry((12, 14, 6), np.diag([2.0, 2, 2, 1]))))
    return tmp_path / "brain.nii.gz"


def test_a_scan_is_given_to_the_model_of_its_modality(
    main: Main, brain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A brain MR is not segmented by the abdominal CT model unless that is wanted."""
    served: list[tuple[str, ...]] = []
    monkeypatch.setattr("s2vnet.server.app.viewer_hint", lambda: None)
    monkeypatch.setattr("s2vnet.server.run.run", lambda settings, started, **_: served.append(settings.models))
    state = ["--state", tmp_path / "state", "--no-browser"]
    code, (line,) = main("view", brain, *state)
    assert code == 1
    assert "no CT in HU, which the model is for" in line
    assert "choose another model (s2vnet models), or give --any-modality" in line
    assert main("view", brain, "--any-modality", *state) == (0, [])
    assert main("view", "-m", "abdomen-ct", "-m", "hippocampus-mr", *state) == (0, [])
    assert served == [("abdomen-ct",), ("abdomen-ct", "hippocampus-mr")]


def test_of_several_models_the_page_opens_with_the_one_that_fits(
    main: Main, brain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s2vnet.server.app import create_app
    from s2vnet.server.settings import Settings

    def serve(settings: Settings, started: Any, **_: Any) -> None:
        application = create_app(settings)
        try:
            started("http://127.0.0.1:1/", application)
        finally:
            application.state.store.close()

    monkeypatch.setattr("s2vnet.server.app.viewer_hint", lambda: None)
    monkeypatch.setattr("s2vnet.server.run.run", serve)
    options = ["--state", tmp_path / "state", "--no-browser", "-m", "abdomen-ct,hippocampus-mr"]
    code, lines = main("view", brain, *options)
    assert (code, lines[0]) == (0, "note: brain.nii.gz: segmented by hippocampus-mr")
    code, (line,) = main("view", brain, *options[:-1], "abdomen-ct", "-m", "abdomen-ct", "--any-modality")
    assert (code, line) == (1, "error: abdomen-ct: the same model is named twice")


def test_local_serves_the_page_until_an_interrupt(main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[bytes] = []

    def build(folder: Path, models: list[str]) -> None:
        assert models == ["hippocampus-mr"]
        folder.mkdir(parents=True)
        (folder / "index.html").write_bytes(b"the page")

    def open_page(address: str) -> None:
        served.append(urllib.request.urlopen(address).read())
        raise KeyboardInterrupt

    monkeypatch.setenv("S2VNET_CACHE", str(tmp_path))
    monkeypatch.setattr("s2vnet.server.static_page.build_page", build)
    monkeypatch.setattr("webbrowser.open", open_page)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code, lines = main("view", "--local", "-m", "hippocampus-mr", "--port", port)
    assert (code, served) == (0, [b"the page"])
    assert lines == ["Press Ctrl+C to stop; the page works without this program once it is loaded"]


def test_local_opens_no_scan(main: Main) -> None:
    code, lines = main("view", "--local", "scan.nii.gz")
    assert code == 1
    assert lines == ["error: --local opens no scan; leave it out, and drop the scan on the page"]
