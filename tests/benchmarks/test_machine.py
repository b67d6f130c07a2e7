"""Commands name no folder of a machine, and energy is what counters say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from machine import ROOT, command, energy, joules


def test_a_command_names_no_folder_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scan, model = tmp_path / "patient.nii.gz", tmp_path / "model"
    typed = [str(scan), "-o", str(ROOT / "docs" / "results" / "speed.json"), f"--model={model}", "--slices", "64"]
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "speed.py"), *typed])
    assert command(scan) == (
        "python benchmarks/speed.py SCAN -o docs/results/speed.json --model=model --slices 64"
    )  # what stands in the documents


def test_energy_is_of_whole_packages_and_goes_on_past_a_counters_end(tmp_path: Path) -> None:
    zones = {"intel-rapl:0": "package-0", "intel-rapl:1": "package-1", "intel-rapl:0:0": "core", "dtpm": "package-0"}
    for zone, name in zones.items():
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "name").write_text(f"{name}\n")
        (tmp_path / zone / "max_energy_range_uj").write_text("9999999\n")
        (tmp_path / zone / "energy_uj").write_text("9000000\n")
    before = energy(tmp_path)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("9500000\n")
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("1000000\n")
    assert joules(before, energy(tmp_path)) == pytest.approx(0.5 + 2)
    assert joules({}, energy(tmp_path / "none")) is None
