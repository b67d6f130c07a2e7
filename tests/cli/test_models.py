"""``s2vnet models``."""

from __future__ import annotations

import json
from pathlib import Path

from command_line import Main, run


def test_models_are_listed(model: Path, tmp_path: Path, main: Main) -> None:
    shown = run("models", model)
    assert "abdomen-ct: CT, axial slices, 13 classes, 5.2 MB\n" in shown
    assert "hippocampus-mr: MR, coronal slices, 2 classes, 9.4 MB\n  classes: 1 Anterior, 2 Posterior\n" in shown
    assert "CC BY-SA 4.0" in shown
    assert f"{model}: boxes, " in shown
    assert [each["name"] for each in json.loads(run("models", "--json"))] == ["abdomen-ct", "hippocampus-mr"]
    code, (line,) = main("models", tmp_path)
    assert (code, "not a trained model" in line) == (6, True)
