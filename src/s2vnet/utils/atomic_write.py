"""Atomic writes: a file is written in a hidden temporary folder beside its target, then moved into place."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from s2vnet.errors import StorageError

_PREFIX = ".s2vnet-"


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a path to write to, in a hidden folder beside ``path``; move the folder's files into place at the end.

    Names within a two-file format are kept, so that the header still refers to its data file; the header is moved
    last. After any exception, interrupts included, the folder is removed and the old file is kept.

    Raises:
        StorageError: The write failed: no such folder, no permission, or disk full.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=path.parent) as folder:
            yield Path(folder) / path.name
            for file in sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name):
                file.replace(path.parent / file.name)
    except OSError as error:
        reason = error.strerror or error
        message = f"cannot write {{path}}: {reason}; choose an existing, writable folder with space"
        raise StorageError(message, path=path) from error


def remove_unfinished(folder: Path, exclude: Path | None = None) -> None:
    """Remove the temporary folders of killed writers, in a folder and all below it.

    Args:
        folder: Folder to search; no process may be writing there.
        exclude: Subfolder to skip.
    """
    for parent, children, _ in os.walk(folder):
        for name in children:
            if name.startswith(_PREFIX):
                shutil.rmtree(Path(parent, name), ignore_errors=True)
        children[:] = [name for name in children if not name.startswith(_PREFIX) and Path(parent, name) != exclude]


def require_writable(folder: Path) -> None:
    """Check, before long work, that files can be written to a folder.

    Raises:
        StorageError: The folder is not writable.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=folder):
            pass
    except OSError as error:
        message = f"cannot write to {{path}}: {error.strerror}; choose an existing, writable folder"
        raise StorageError(message, path=folder) from error


@contextmanager
def disk_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Convert a library's write errors within the block to OSError, which :func:`atomic_write` handles.

    Raises:
        OSError: In place of any of `kinds`.
    """
    try:
        yield
    except kinds as error:
        raise OSError(str(error).splitlines()[0] if str(error) else type(error).__name__) from error
