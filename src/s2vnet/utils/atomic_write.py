"""Atomic writes: a file is written in a hidden temporary folder beside its target, then moved into place."""

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
    """Yield a path to write to, in a hidden folder beside ``path``; move the folder's files into place at the end.

    Files of a format in two parts keep their names, so that the header still refers to its data; the header is moved
    last. Any exception, an interrupt included, removes the folder and leaves the old file.

    Raises:
        InputError: The system refuses: no such folder, no permission, or disk full.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=path.parent) as folder:
            yield Path(folder) / path.name
            for file in sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name):
                file.replace(path.parent / file.name)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot write {path}: {reason}; choose an existing, writable folder with space") from error


def remove_unfinished(folder: Path, exclude: Path | None = None) -> None:
    """Remove the temporary folders of killed writers, in a folder and all below it.

    Args:
        folder: No process may be writing there.
        exclude: A folder below it that is left as it is.
    """
    for parent, children, _ in os.walk(folder):
        for name in children:
            if name.startswith(_PREFIX):
                shutil.rmtree(Path(parent, name), ignore_errors=True)
        children[:] = [name for name in children if not name.startswith(_PREFIX) and Path(parent, name) != exclude]


def require_writable(folder: Path) -> None:
    """Check, before long work, that files can be written to a folder.

    Raises:
        InputError: They cannot.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=folder):
            pass
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}; choose an existing, writable folder") from error


@contextmanager
def disk_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turn a library's own errors of writing a file within the block into those that :func:`atomic_write` handles.

    Raises:
        OSError: In place of any of `kinds`.
    """
    try:
        yield
    except kinds as error:
        raise OSError(str(error).splitlines()[0] if str(error) else type(error).__name__) from error
