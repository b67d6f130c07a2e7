"""A server's mark on its state folder. The system takes it back when the server ends, also when it is killed."""

from __future__ import annotations

import os
import sys
import weakref
from pathlib import Path

if sys.platform != "win32":
    import fcntl

MARK = ".running"


class Presence:
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
