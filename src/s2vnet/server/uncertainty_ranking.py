"""How unsure the network is of scans that nobody has labelled yet: which of them to label next.

Scans are segmented one at a time, whenever nobody else wants to compute. What comes of it is kept on the disk, by scan,
its file and the model, under numbers: names tell of patients.
"""

from __future__ import annotations

import json
import logging
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path

from s2vnet.errors import S2VNetError
from s2vnet.interactive.session import Session
from s2vnet.server.scheduler import SCORING
from s2vnet.server.session_store import SessionStore
from s2vnet.server.session_worker import read_scan
from s2vnet.utils.atomic_write import atomic_write
from s2vnet.utils.json_io import read_json

FILE = "doubts.json"
_log = logging.getLogger(__name__)


class _Ended(Exception):
    """The server stops."""


class UncertaintyRanking:
    """Mean entropy of the class probabilities over a scan's slices (nats), of many scans. Safe from any thread."""

    def __init__(self, store: SessionStore) -> None:
        self._store, self._path = store, store.settings.state / FILE
        self._lock = threading.Lock()
        self._known: dict[str, float | None] = _read(self._path)
        """None: not to be scored."""
        self._wanted: list[str] = []
        self._thread: threading.Thread | None = None
        self._closed = False

    def of(self, scans: Sequence[str]) -> dict[str, float]:
        """Those of the scans that are known so far; the others are worked out in the background."""
        keys = {scan: self._key(scan) for scan in scans}
        with self._lock:
            self._wanted = [scan for scan, key in keys.items() if key not in self._known]
            if self._wanted and not self._closed and (self._thread is None or not self._thread.is_alive()):
                self._thread = threading.Thread(target=self._work, name="doubts", daemon=True)
                self._thread.start()
            found = {scan: self._known.get(key) for scan, key in keys.items()}
        return {scan: doubt for scan, doubt in found.items() if doubt is not None}

    def wait(self, timeout: float) -> None:
        """Until nothing is being worked out, or the time is over."""
        if self._thread is not None:
            self._thread.join(timeout)

    def close(self) -> None:
        """End the work after the slice that it is at."""
        self._closed = True

    def _key(self, scan: str) -> str:
        """Of a scan as its files are now, and of the model."""
        path = self._store.scans.find(scan)
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        stats = [file.stat() for file in files]
        now = f"{self._store.segmenter.sha256} {scan} {[(s.st_mtime_ns, s.st_size) for s in stats]}"
        return uuid.uuid5(uuid.NAMESPACE_URL, now).hex

    def _work(self) -> None:
        while True:
            with self._lock:
                if self._closed or not self._wanted:
                    self._thread = None
                    return
                scan = self._wanted.pop(0)
            try:
                key = self._key(scan)
                self._keep(key, self._doubt(scan))
            except _Ended:
                continue
            except (S2VNetError, OSError):  # the scan is gone, or the disk is full
                _log.warning("how unsure the network is of a scan could not be worked out or kept")

    def _keep(self, key: str, doubt: float | None) -> None:
        with self._lock:
            self._known[key] = doubt
            with atomic_write(self._path) as temporary:
                temporary.write_text(json.dumps(self._known))

    def _doubt(self, scan: str) -> float | None:
        """Of a scan; None for one that cannot be scored, which is not tried again."""
        store = self._store

        def progress(done: int, total: int) -> None:
            if self._closed:
                raise _Ended
            store.turns.offer(SCORING)

        with store.turns.turn(SCORING):
            if self._closed:
                raise _Ended
            channels, most = len(store.segmenter.plan.channels), store.settings.max_voxels
            try:
                volume = read_scan(store.scans.find(scan), channels, most)
                return float(Session(store.segmenter, volume, progress).slice_uncertainty().mean())
            except _Ended:
                raise
            except Exception as error:  # whatever a library says of a file: it would stand in the way of all others
                _log.warning("a scan could not be scored: %s", type(error).__name__)
                return None


def _read(path: Path) -> dict[str, float | None]:
    try:
        found: dict[str, float | None] = read_json(path)
    except (OSError, ValueError):
        return {}
    return found
