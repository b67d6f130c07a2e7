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
    options = ["--port", 0, "--state", tmp_path, "-n", "memory_mb=4096"]
    shown = run("serve", "-m", "hippocampus-mr", *options)
    assert shown == "serving hippocampus-mr at http://127.0.0.1:1/\n"
    for several in (["-m", "abdomen-ct, hippocampus-mr"], ["-m", "abdomen-ct", "-m", "hippocampus-mr"]):
        shown = run("serve", *several, *options)
        assert shown == "serving abdomen-ct, hippocampus-mr at http://127.0.0.1:1/\n"
    (folder := tmp_path / "a,b").mkdir()
    run("serve", "-m", folder, *options)
    both = ("abdomen-ct", "hippocampus-mr")
    assert [settings.models for settings in served] == [("hippocampus-mr",), both, both, (str(folder),)]
    settings = served[0]
    assert (settings.port, settings.state, settings.memory_mb) == (0, tmp_path, 4096)


def test_an_unknown_limit_is_refused(tmp_path: Path, main: Main) -> None:
    code, (line,) = main("serve", "--state", tmp_path, "-m", "abdomen-ct, brain", "--port", 0)
    assert (code, "no model 'brain'" in line) == (6, True)
    code, lines = main("serve", "--state", tmp_path, "-n", "nonsense=1")
    assert (code, len(lines)) == (1, 1)
    assert "setting nonsense: Extra inputs are not permitted" in lines[0]
