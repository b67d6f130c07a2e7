"""Download NiiVue, the viewer's only library, into the package, for the server and the wheel.

    python scripts/viewer.py

It is downloaded with npm in a pinned version and verified by its hash. Building a wheel does the same.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE, VERSION = "@niivue/niivue", "0.69.0"
SHA256 = "d6c2be4feb1ad53b2ac76b4196da8d8fd2263b662b511c55ca0fd127eb6a6532"
"""Hash of dist/index.js, a self-contained module."""
TARGET = Path(__file__).parent.parent / "src" / "s2vnet" / "server" / "viewer" / "vendor"


def main() -> None:
    """Download, verify and install; one line and exit code 1 on failure."""
    target = TARGET / "niivue.js"
    if target.is_file() and _sha256(target) == SHA256:
        return
    npm = shutil.which("npm")
    if npm is None:
        sys.exit("npm is needed to fetch NiiVue for the viewer; install Node.js, or install s2vnet from a wheel")
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent"], cwd=folder, capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(f"npm could not fetch {PACKAGE} {VERSION}: {done.stderr.strip().splitlines()[-1:]}")
        with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
            content = archive.extractfile("package/dist/index.js")
            assert content is not None
            download = Path(folder) / "niivue.js"
            download.write_bytes(content.read())
        if _sha256(download) != SHA256:
            sys.exit(f"{PACKAGE} {VERSION} has an unexpected hash (sha256 {_sha256(download)}); nothing was changed")
        TARGET.mkdir(exist_ok=True)
        shutil.copyfile(download, target.with_suffix(".new"))
        target.with_suffix(".new").replace(target)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
