"""``s2vnet view``: the web page of one scan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_line import Main

from s2vnet.io.files import read_image


def test_view_opens_the_page_of_its_one_scan(
    main: Main, image: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s2vnet.server.app import create_app
    from s2vnet.server.settings import Settings

    opened: list[str] = []

    def serve(settings: Settings, started: Any) -> None:
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
