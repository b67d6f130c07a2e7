"""Files that are whole or not there: written under a temporary name in a hidden folder beside, then renamed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from s2vnet.types import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a name to write to, in a hidden folder beside ``path``; at the end move what lies there into place.

    Formats of two files keep their names, so that the header still points to its data; the header is moved last.
    Any exception, an interrupt too, removes the folder and leaves the old file.

    Raises:
        InputError: the system refuses (no folder, no permission, disk full), named in one line.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".s2vnet-", dir=path.parent) as folder:
            yield Path(folder) / path.name
            for file in sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name):
                file.replace(path.parent / file.name)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot write {path}: {reason}; choose an existing, writable folder with space") from error
