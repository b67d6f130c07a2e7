"""What figures were measured on, and how."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
POWERCAP = Path("/sys/class/powercap")


def processor() -> str:
    """The processor's name where the system tells, else its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def command(scan: Path | None = None) -> str:
    """What was typed, without this machine's folders: SCAN for the scan, other paths from the repository on."""
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *(_shown(word, scan) for word in sys.argv[1:])])


def _shown(word: str, scan: Path | None) -> str:
    option, equals, value = word.rpartition("=")
    path = Path(value)
    if path == scan:
        value = "SCAN"
    elif path.is_absolute():
        value = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
    return option + equals + value


def energy(folder: Path = POWERCAP) -> dict[Path, int]:
    """Microjoules that each package of processors has counted; none where the system does not tell (or only root).

    https://docs.kernel.org/power/powercap/powercap.html
    """
    found = {}
    for zone in sorted(folder.glob("intel-rapl:*")):
        with suppress(OSError, ValueError):
            if (zone / "name").read_text().startswith("package"):  # its parts are counted in it
                found[zone] = int((zone / "energy_uj").read_text())
    return found


def joules(before: Mapping[Path, int], after: Mapping[Path, int]) -> float | None:
    """Between two times of :func:`energy`, by everything that ran; None where it is not told."""
    if not before:
        return None
    ranges = {zone: int((zone / "max_energy_range_uj").read_text()) for zone in before}  # then from 0 again
    return sum((after[zone] - before[zone]) % (ranges[zone] + 1) for zone in before) / 1e6
