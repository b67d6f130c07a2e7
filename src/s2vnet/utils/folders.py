"""Creation of folders, and locations of the user's cache and state."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs

from s2vnet.errors import StorageError


def make_folder(folder: Path) -> None:
    """Create a folder and its parents; an existing folder is kept.

    Raises:
        StorageError: The folder cannot be created.
    """
    with folder_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


def make_private(folder: Path) -> None:
    """Create a folder that only its owner can read, or make an existing one so; another owner's stays as it is.

    Raises:
        OSError: The folder cannot be created.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(PermissionError):
        folder.chmod(0o700)


@contextmanager
def folder_errors(folder: Path, remedy: str = "choose a writable folder") -> Iterator[None]:
    """Convert system errors within the block to a message about the folder, which ends with `remedy`.

    Raises:
        StorageError: In place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot make {{path}}: {error.strerror}; {remedy}", path=folder) from error


def cache_folder() -> Path:
    """Folder of files that can be made or fetched again: ``$S2VNET_CACHE``, else the user's cache folder."""
    return Path(os.environ.get("S2VNET_CACHE") or platformdirs.user_cache_path("s2vnet", appauthor=False))


def state_folder() -> Path:
    """Folder of the server's sessions and uploaded scans: on Linux ``~/.config/s2vnet``."""
    return platformdirs.user_config_path("s2vnet", appauthor=False, roaming=True)
