"""The command, date and hardware of a measurement, and writing its result."""

from __future__ import annotations

import datetime
import json
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s2vnet.evaluation.report import nullable
from s2vnet.utils.atomic_write import atomic_write

ROOT = Path(__file__).resolve().parents[2]


def processor() -> str:
    """Name of the processor if the system reports it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def command(scan: Path | None = None) -> str:
    """Command line of this process without local folders: ``scan`` as SCAN, other paths relative to the repository."""
    arguments = [_shorten(argument, scan) for argument in sys.argv[1:]]
    return " ".join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *arguments])


def _shorten(argument: str, scan: Path | None) -> str:
    option, equals, value = argument.rpartition("=")
    path = Path(value)
    if path == scan:
        value = "SCAN"
    elif path.is_absolute():
        value = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
    return option + equals + value


def provenance(hardware: str, scan: Path | None = None) -> dict[str, str]:
    """Command, date and hardware, as every result file records them."""
    return {"command": command(scan), "date": datetime.date.today().isoformat(), "hardware": hardware}


def write_json(path: Path, value: object) -> None:
    """Write atomically; NaN and infinity become null."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(nullable(value), indent=1, allow_nan=False) + "\n")


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write the result of a command and print it."""
    write_json(path, dict(result))
    sys.stdout.write(path.read_text())
