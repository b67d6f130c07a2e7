"""Energy is read from counters of processor packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.measures.energy import joules, read_energy


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
