"""``s2vnet plan``: plan and fingerprint of a dataset."""

from __future__ import annotations

import json
from pathlib import Path

from command_line import Main, run


def test_a_plan_is_shown_and_saved(dataset: Path, tmp_path: Path) -> None:
    shown = run("plan", dataset, "-o", tmp_path / "out")
    assert json.loads(shown) == json.loads((tmp_path / "out" / "plan.json").read_text())
    assert json.loads(shown)["plane"] == "axial"
    assert json.loads((tmp_path / "out" / "fingerprint.json").read_text())["cases"] == 5


def test_a_dataset_is_named_once(dataset: Path, tmp_path: Path, main: Main) -> None:
    assert run("plan", "-d", dataset, "-o", tmp_path) == run("plan", dataset, "-o", tmp_path)
    for options in ([], [dataset, "-d", dataset]):
        assert main("plan", *options, "-o", tmp_path / "none") == (
            1,
            ["error: name one dataset folder, as an argument or by -d"],
        )
