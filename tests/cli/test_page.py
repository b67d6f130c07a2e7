"""``s2vnet page``: the page has the models that are named, else all of the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_line import Main, run


def test_models_are_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[tuple[Any, ...]] = []
    monkeypatch.setattr("s2vnet.server.static_page.build_page", lambda *arguments: built.append(arguments[:2]))
    assert run("page", "-o", tmp_path) == f"{tmp_path / 'index.html'}\n"
    run("page", "-o", tmp_path, "-m", "hippocampus-mr")
    assert built == [(tmp_path, ["abdomen-ct", "hippocampus-mr"]), (tmp_path, ["hippocampus-mr"])]


def test_an_unknown_model_is_one_line(tmp_path: Path, main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s2vnet.server.static_page._LIBRARY", Path(__file__))
    code, lines = main("page", "-o", tmp_path / "page", "-m", "elbow")
    assert code == 6
    assert len(lines) == 1
    assert "no model 'elbow'" in lines[0]
