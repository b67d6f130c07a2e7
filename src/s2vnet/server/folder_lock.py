"""File locks on folders. The operating system releases them when a process ends, also when it is killed."""

from __future__ import annotations

import os
import sys
import time
import weakref
from pathlib import Path

if sys.platform != "win32":
    import fcntl

LOCK_FILE = ".running"
_ATTEMPTS, _RETRY_S = 50, 0.02


class FolderLock:
    """Lock of a running server on its state folder, which several servers may share."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError when the folder is not writable."""
        self._descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        self.close = weakref.finalize(self, os.close, self._descriptor)
        """Release the lock."""
        self.exclusive = False
        """Whether this is the only server that uses the folder, until :meth:`share`; False without file locks."""
        if sys.platform != "win32":
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.exclusive = True
            except OSError:
                self.share()

    def share(self) -> None:
        """Turn the lock into a shared one."""
        self.exclusive = False
        if sys.platform != "win32":
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_SH)
            except OSError:  # a file system without locks
                return


def lock_folder(folder: Path) -> int | None:
    """Lock a folder for this process and for those that inherit the returned file descriptor.

    Returns None if another process holds the lock. Systems without file locks are treated as unlocked. Raises OSError
    when the folder is not writable.
    """
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    for _ in range(_ATTEMPTS):
        if _try_lock(descriptor, exclusive=True):
            os.truncate(descriptor, 0)
            return descriptor
        time.sleep(_RETRY_S)  # is_locked() holds it for a moment
    os.close(descriptor)
    return None


def is_locked(folder: Path) -> bool:
    """Whether a process holds the lock on a folder; False on systems without file locks."""
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR)
    except OSError:
        return False
    try:
        return not _try_lock(descriptor, exclusive=False)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, exclusive: bool) -> bool:
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            return True
    return True
