"""Files that are whole or not there: written under a temporary name in a hidden folder beside, then renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from s2vnet.errors import InputError

_PREFIX = ".s2vnet-"


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a name to write to, in a hidden folder beside ``path``; at the end move what lies there into place.

    Formats of two files keep their names, so that the header still points to its data; the header is moved last.
    Any exception, an interrupt too, removes the folder and leaves the old file.

    Raises:
        InputError: the system refuses (no folder, no permission, disk full), named in one line.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=path.parent) as folder:
            yield Path(folder) / path.name
            for file in sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name):
                file.replace(path.parent / file.name)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot write {path}: {reason}; choose an existing, writable folder with space") from error


def remove_unfinished(folder: Path, but: Path | None = None) -> None:
    """Remove, in a folder and all below, what writers have left that were killed; nobody may be writing there.

    Args: the folder, and one in it that is left as it is.
    """
    for at, below, _ in os.walk(folder):
        for name in below:
            if name.startswith(_PREFIX):
                shutil.rmtree(Path(at, name), ignore_errors=True)
        below[:] = [name for name in below if not name.startswith(_PREFIX) and Path(at, name) != but]


def require_writable(folder: Path) -> None:
    """Find out before long work, not after it, whether files can be written to a folder.

    Raises:
        InputError: they cannot.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=folder):
            pass
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}; choose an existing, writable folder") from error


@contextmanager
def disk_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Within it, a library's own errors of writing a file are the system's, as :func:`atomic_write` expects them.

    Raises:
        OSError: in place of any of `kinds`.
    """
    try:
        yield
    except kinds as error:
        raise OSError(str(error).splitlines()[0] if str(error) else type(error).__name__) from error
