"""Energy of the processor packages, from the Linux power capping counters."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


def read_energy(folder: Path = POWERCAP) -> dict[Path, int]:
    """Counter of each processor package in microjoules; empty where the system has none or only root may read them.

    https://docs.kernel.org/power/powercap/powercap.html
    """
    counters = {}
    for zone in sorted(folder.glob("intel-rapl:*")):
        with suppress(OSError, ValueError):
            if (zone / "name").read_text().startswith("package"):  # includes the zones inside the package
                counters[zone] = int((zone / "energy_uj").read_text())
    return counters


def joules(before: Mapping[Path, int], after: Mapping[Path, int]) -> float | None:
    """Energy in joules that all processes used between two readings; None without counters."""
    if not before:
        return None
    ranges = {zone: int((zone / "max_energy_range_uj").read_text()) for zone in before}  # counters wrap around
    return sum((after[zone] - before[zone]) % (ranges[zone] + 1) for zone in before) / 1e6
