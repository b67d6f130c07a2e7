"""Recorded commands contain no local folders, and energy is read from counters."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.measures.energy import joules, read_energy
from benchmarks.measures.environment import ROOT, command, write_json


def test_command_contains_no_local_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scan, model = tmp_path / "patient.nii.gz", tmp_path / "model"
    arguments = [str(scan), "-o", str(ROOT / "docs" / "results" / "speed.json"), f"--model={model}", "--slices", "64"]
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "speed.py"), *arguments])
    assert command(scan) == ("python -m benchmarks.speed SCAN -o docs/results/speed.json --model=model --slices 64")


def test_energy_counts_whole_packages_and_counter_wraparound(tmp_path: Path) -> None:
    zones = {"intel-rapl:0": "package-0", "intel-rapl:1": "package-1", "intel-rapl:0:0": "core", "dtpm": "package-0"}
    for zone, name in zones.items():
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "name").write_text(f"{name}\n")
        (tmp_path / zone / "max_energy_range_uj").write_text("9999999\n")
        (tmp_path / zone / "energy_uj").write_text("9000000\n")
    before = read_energy(tmp_path)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("9500000\n")
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("1000000\n")
    assert joules(before, read_energy(tmp_path)) == pytest.approx(0.5 + 2)
    assert joules({}, read_energy(tmp_path / "none")) is None


def test_undefined_numbers_are_written_as_null(tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", {"dice": float("nan"), "steps": 3})
    assert json.loads((tmp_path / "result.json").read_text()) == {"dice": None, "steps": 3}
