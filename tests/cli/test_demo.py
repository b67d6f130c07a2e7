"""``s2vnet demo``: what is printed, and scenes that do not exist."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from command_line import Main, run


def test_the_demo_tells_what_a_round_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, main: Main) -> None:
    monkeypatch.setattr(
        "s2vnet.demo.run.run_demo",
        lambda output, device, scene, say: SimpleNamespace(seconds_automatic=2.0, seconds=[0.1, 0.3]),
    )
    shown = run("demo", "-o", tmp_path / "demo")
    assert (
        shown
        == f"a round costs 1/10 of encoding and segmenting the image again; see {tmp_path / 'demo' / 'overlay.png'}\n"
    )
    assert (tmp_path / "demo").is_dir()
    code, lines = main("demo", "-o", tmp_path / "other", "--scene", "knee")
    assert (code, lines) == (1, ["error: no scene 'knee'; choose one of abdomen, hippocampus"])
    assert not (tmp_path / "other").exists()
