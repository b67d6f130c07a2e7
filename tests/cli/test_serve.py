"""``s2vnet serve``: options become the server's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_line import Main, run

from s2vnet.server.settings import Settings


def test_options_are_the_settings_of_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Settings] = []

    def serve(settings: Settings, started: Any, certificate: Path | None, key: Path | None) -> None:
        assert (certificate, key) == (None, None)
        served.append(settings)
        started("http://127.0.0.1:1/", None)

    monkeypatch.setattr("s2vnet.server.run.run", serve)
    shown = run("serve", "-m", "hippocampus-mr", "--port", 0, "--state", tmp_path, "-n", "memory_mb=4096")
    assert shown == "serving hippocampus-mr at http://127.0.0.1:1/\n"
    (settings,) = served
    assert (settings.port, settings.state, settings.memory_mb) == (0, tmp_path, 4096)


def test_an_unknown_limit_is_refused(tmp_path: Path, main: Main) -> None:
    code, (line,) = main("serve", "--state", tmp_path, "-m", "abdomen-ct", "-m", "hippocampus-mr")
    assert (code, "a server has one model" in line) == (1, True)
    code, lines = main("serve", "--state", tmp_path, "-n", "nonsense=1")
    assert (code, len(lines)) == (1, 1)
    assert "setting nonsense: Extra inputs are not permitted" in lines[0]
