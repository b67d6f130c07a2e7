"""Marks on folders that are at work. The system takes them back when their processes end, also when they are killed."""

from __future__ import annotations

import os
import sys
import time
import weakref
from pathlib import Path

if sys.platform != "win32":
    import fcntl

MARK = ".running"
_TRIES, _PAUSE_S = 50, 0.02


class FolderLock:
    """Held by a running server; several servers may share a folder."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError where the folder cannot be written."""
        self._descriptor = os.open(folder / MARK, os.O_RDWR | os.O_CREAT, 0o600)
        self.close = weakref.finalize(self, os.close, self._descriptor)
        """The server uses the folder no longer."""
        self.alone = False
        """Whether no other server uses the folder, until :meth:`share`; False too where the system cannot tell."""
        if sys.platform != "win32":
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.alone = True
            except OSError:
                self.share()

    def share(self) -> None:
        """Let others use the folder too."""
        self.alone = False
        if sys.platform != "win32":
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_SH)
            except OSError:  # a file system without locks
                return


def take(folder: Path) -> int | None:
    """Mark a folder as one's own; None where somebody else has. Whoever inherits the descriptor has it too.

    Nothing is marked where the system has no locks. Raises OSError where the folder cannot be written.
    """
    descriptor = os.open(folder / MARK, os.O_RDWR | os.O_CREAT, 0o600)
    for _ in range(_TRIES):
        if _lock(descriptor, alone=True):
            os.truncate(descriptor, 0)
            return descriptor
        time.sleep(_PAUSE_S)  # one that looks holds it for a moment
    os.close(descriptor)
    return None


def is_taken(folder: Path) -> bool:
    """Whether somebody works in a folder, as far as the system can tell."""
    try:
        descriptor = os.open(folder / MARK, os.O_RDWR)
    except OSError:
        return False
    try:
        return not _lock(descriptor, alone=False)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, alone: bool) -> bool:
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            return True
    return True
