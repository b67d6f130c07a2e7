"""Build the wheel twice and check that both are identical.

python scripts/wheel.py -o dist
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def build(folder: Path, epoch: str) -> Path:
    """Build the wheel in an isolated environment, with ``epoch`` (seconds since 1970) as the time of its files."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-cache-dir",
        "-w",
        str(folder),
        str(ROOT),
    ]
    subprocess.run(command, check=True, env={**os.environ, "SOURCE_DATE_EPOCH": epoch})
    (wheel,) = folder.glob("s2vnet-*.whl")
    return wheel


def epoch_of_commit() -> str:
    """Time of the last commit, or SOURCE_DATE_EPOCH."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return given
    command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    """Build twice and keep one wheel; exit code 1 if they differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "dist")
    output = parser.parse_args().output
    epoch = epoch_of_commit()
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        wheels = [build(Path(folder), epoch) for folder in (one, two)]
        first, second = (hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in wheels)
        if first != second:
            sys.exit(f"two builds differ: {first} and {second}")
        output.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(wheels[0], output / wheels[0].name)
    sys.stdout.write(f"{first}  {wheels[0].name}\n")


if __name__ == "__main__":
    main()
