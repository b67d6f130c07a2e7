"""Weights that come with the package, and what they have to be: ``weights/SHA256SUMS``, for ``sha256sum -c`` too."""

from __future__ import annotations

import hashlib
from pathlib import Path

from s2vnet.errors import CheckpointError

FOLDER = Path(__file__).parent.parent / "weights"
SUMS = FOLDER / "SHA256SUMS"


def verify_bundled_files(*files: Path) -> None:
    """Check files of the package against its list; files elsewhere are none of its business.

    Raises:
        CheckpointError: missing, changed, or not in the list.
    """
    for file in files:
        if FOLDER.resolve() not in file.resolve().parents:
            continue
        name = file.resolve().relative_to(FOLDER.resolve()).as_posix()
        try:
            sums = dict(line.split("  ", 1)[::-1] for line in SUMS.read_text().splitlines())
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file}: cannot be checked ({error}); install s2vnet again") from error
        if sums.get(name) != digest:
            raise CheckpointError(f"{file}: not the file that came with s2vnet; install it again")
