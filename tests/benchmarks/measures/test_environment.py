"""Recorded commands contain no local folders."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.measures.environment import ROOT, command, write_json


def test_command_contains_no_local_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scan, model = tmp_path / "patient.nii.gz", tmp_path / "model"
    arguments = [str(scan), "-o", str(ROOT / "docs" / "results" / "speed.json"), f"--model={model}", "--slices", "64"]
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "speed.py"), *arguments])
    assert command(scan) == ("python -m benchmarks.speed SCAN -o docs/results/speed.json --model=model --slices 64")


def test_undefined_numbers_are_written_as_null(tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", {"dice": float("nan"), "steps": 3})
    assert json.loads((tmp_path / "result.json").read_text()) == {"dice": None, "steps": 3}
