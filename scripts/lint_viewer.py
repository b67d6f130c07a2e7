"""Lint the viewer with Biome (biome.json), which npm installs once, in a pinned version; then no network is needed.

python scripts/lint_viewer.py
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from viewer import npm

ROOT = Path(__file__).parent.parent
VERSION = "2.6.8"
FOLDER = ROOT / ".biome" / VERSION


def main() -> None:
    """Install Biome if it is missing, and exit with its code."""
    program = FOLDER / "node_modules" / ".bin" / ("biome.cmd" if sys.platform == "win32" else "biome")
    if not program.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        command = [*npm(), "install", "--no-audit", "--no-fund", "--silent", f"@biomejs/biome@{VERSION}"]
        if subprocess.run([*command, "--prefix", str(FOLDER)], check=False).returncode:
            sys.exit(f"npm could not install @biomejs/biome {VERSION}; check the network")
    sys.exit(subprocess.run([str(program), "lint", "--error-on-warnings"], cwd=ROOT, check=False).returncode)


if __name__ == "__main__":
    main()
