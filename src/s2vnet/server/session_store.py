"""All sessions: who holds which, how much memory they may take, and what is kept on the disk.

What is cached of sessions that were idle for longest goes to the disk when memory runs short; a session whose client
has been silent for a lease is let go, and comes back from its record when the client does, also after a restart.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from s2vnet.errors import InputError
from s2vnet.inference.segmenter import Segmenter
from s2vnet.io.files import write_image
from s2vnet.io.geometry import Volume
from s2vnet.server.folder_lock import FolderLock
from s2vnet.server.memory_budget import SessionMemoryBudget
from s2vnet.server.scan_library import Full, Scans
from s2vnet.server.scheduler import Scheduler
from s2vnet.server.session_worker import CACHED, RECORD, SessionWorker
from s2vnet.server.settings import Settings
from s2vnet.utils.atomic_write import remove_unfinished
from s2vnet.utils.folders import folder_errors
from s2vnet.utils.memory import release_freed_memory

TRAINING = "training"
"""Folder of the trainings, which outlive a server; they tidy up themselves."""
_NAME = re.compile("[0-9a-f]{32}")
_SECONDS_A_DAY = 86400.0
_log = logging.getLogger(__name__)


class SessionStore:
    """The sessions of a server. Safe to call from any thread."""

    def __init__(self, settings: Settings, segmenter: Segmenter) -> None:
        """Raises InputError when the data folder is not there or the state folder cannot be written."""
        self.settings, self.segmenter = settings, segmenter
        self.turns = Scheduler()
        self.room = SessionMemoryBudget(settings.memory_mb * 2**20, self._guests)
        self._lock = threading.RLock()
        self._epoch = time.time() - time.monotonic()
        self._held: dict[str, SessionWorker] = {}
        self._folder, self.temporary = settings.state / "sessions", settings.state / "tmp"
        with folder_errors(settings.state):
            for folder in (self._folder, self.temporary):
                folder.mkdir(parents=True, exist_ok=True)
            self._presence = FolderLock(settings.state)
            self.scans = Scans(settings.data, settings.state / "sent", settings.sent_mb * 2**20, self._used)
        if self._presence.alone:
            self._tidy()
        self._presence.share()

    def _tidy(self) -> None:
        """Remove what a server has left that was killed."""
        remove_unfinished(self.settings.state, exclude=self.settings.state / TRAINING)
        for left in [*self._folder.glob(f"*/{CACHED}"), *self.temporary.iterdir()]:
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
        for folder in self._folder.iterdir():
            if folder.is_dir() and not (folder / RECORD).is_file():  # nobody was told its name
                shutil.rmtree(folder, ignore_errors=True)

    def open(self, scan: str) -> SessionWorker:
        """A new session on a scan; it is read and encoded in the background.

        Raises:
            InputError: no such scan.
            Full: too many sessions.
        """
        name = uuid.uuid4().hex
        path, shown = self.scans.find(scan), self.scans.name(scan)
        with self._lock:
            self._make_room()
            held = SessionWorker(name, shown, path, self._folder / name, *self._common)
            held.write()
            self._held[name] = held
        self._touch(path)
        held.start()
        return held

    def open_sent(self, volume: Volume) -> SessionWorker:
        """A new session on a volume that a client sent as an array; its file is kept as other scans that are sent.

        Raises:
            InputError: it cannot be written.
            Full: too many sessions, or too much that was sent.
        """
        scan, path = self.scans.new("sent.nii")
        with self.scans.room(volume.data.nbytes):
            write_image(path, volume)
        try:
            return self.open(scan.id)
        except InputError:
            path.unlink()
            raise

    def get(self, name: str) -> SessionWorker:
        """A session, from the disk where it was let go, or where it failed at work: once, lest it be tried for ever.

        Raises:
            InputError: no such session.
            Full: too many sessions.
        """
        with self._lock:
            held = self._held.get(name)
            anew = held is not None and held.failed_at_work and not held.anew
            if held is not None and anew:
                self._let_go(name, held)
            if held is None or anew:
                if not _NAME.fullmatch(name) or not (self._folder / name / RECORD).is_file():
                    raise InputError("no such session; open the scan again")
                self._make_room()
                held = SessionWorker.of_record(self._folder / name, self.scans.find, *self._common)
                held.anew = anew
                self._held[name] = held
            if not held.failed:  # one that takes nothing any more is not kept by asking for it
                held.asked = time.monotonic()
        self._touch(held.folder / RECORD)
        self._touch(held.path)
        held.start()
        return held

    def _used(self) -> list[Path]:
        """Scans of open sessions."""
        return [held.path for held in list(self._held.values())]

    def _touch(self, path: Path) -> None:
        """So that what is in use is not taken for old; a scan in the data folder is left as it is."""
        if path.is_relative_to(self.settings.state):
            with contextlib.suppress(OSError):
                os.utime(path)

    def end(self, name: str) -> None:
        """Close a session for good. Raises InputError for none."""
        folder = self._folder / name
        with self._lock:
            held = self._held.pop(name, None)
            if held is not None:
                held.close()
            elif not _NAME.fullmatch(name) or not (folder / RECORD).is_file():
                raise InputError("no such session; open the scan again")
        shutil.rmtree(folder, ignore_errors=True)

    def tend(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Let go what is overdue; to be called now and then."""
        with self._lock:
            for name, held in list(self._held.items()):
                if self._overdue(held, clock()):
                    self._let_go(name, held)
            idle = sorted((h for h in self._held.values() if not h.busy), key=lambda h: h.asked)
        self.room.tidy()  # not under the lock: writing takes its time
        release_freed_memory()
        with self._lock:
            for held in idle:  # labels are left of them
                silent = self._held.get(held.name) is held and not held.heard and not held.busy
                if self.room.excess > 0 and silent:
                    self._let_go(held.name, held)
        # a clock that was put forward makes nothing old, and one that was put back none of what is new
        oldest = min(time.time(), self._epoch + time.monotonic()) - self.settings.keep_days * _SECONDS_A_DAY
        for path in [*self._folder.iterdir(), *(self.settings.state / "sent").iterdir()]:
            if path.name not in self._held and _last_written(path) < oldest:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def close(self) -> None:
        """End all work; what was asked for is on the disk already."""
        with self._lock:
            for name, held in list(self._held.items()):
                self._let_go(name, held)
        self._presence.close()

    @property
    def nbytes(self) -> int:
        """Memory in bytes of all sessions."""
        return sum(held.nbytes for held in self._guests())

    @property
    def count(self) -> int:
        """Open sessions."""
        return len(self._held)

    @property
    def _common(self) -> tuple[Segmenter, Scheduler, SessionMemoryBudget, int]:
        return self.segmenter, self.turns, self.room, self.settings.max_voxels

    def _guests(self) -> list[SessionWorker]:
        with self._lock:
            return list(self._held.values())

    def _let_go(self, name: str, held: SessionWorker) -> None:
        """Forget a session in memory; its record stays."""
        held.close()
        del self._held[name]
        (self._folder / name / CACHED).unlink(missing_ok=True)

    def _overdue(self, held: SessionWorker, now: float) -> bool:
        return not held.heard and not held.busy and now - held.asked > self.settings.lease_s

    def _make_room(self) -> None:
        """Let the session go that was idle for longest, if all places are taken and its lease is over."""
        if len(self._held) < self.settings.max_sessions:
            return
        name, held = min(self._held.items(), key=lambda item: item[1].asked)
        if not self._overdue(held, time.monotonic()):
            raise Full(f"all {self.settings.max_sessions} sessions are taken; close one, or try again in a while")
        self._let_go(name, held)


def _last_written(path: Path) -> float:
    try:
        return max(part.stat().st_mtime for part in (path, *path.glob("*")))
    except OSError:
        return time.time()
