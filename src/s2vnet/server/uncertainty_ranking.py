"""Uncertainty of unlabelled scans, as active learning needs it to choose the scan to label next.

Scans are segmented one at a time in the background, while no session computes. Scores are cached on the disk under
hashes of scan, file times and models, since file names may identify patients.
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
from s2vnet.server.scan_library import read_scan
from s2vnet.server.scheduler import SCORING
from s2vnet.server.session_store import SessionStore
from s2vnet.utils.atomic_write import atomic_write
from s2vnet.utils.json_io import read_json

FILE = "doubts.json"
_log = logging.getLogger(__name__)


class _Closed(Exception):
    """The server is shutting down."""


class UncertaintyRanking:
    """Uncertainty of scans: mean entropy of the class probabilities over all slices (nats). Thread-safe."""

    def __init__(self, store: SessionStore) -> None:
        self._store, self._path = store, store.settings.state / FILE
        self._lock = threading.Lock()
        self._scores: dict[str, float | None] = _read(self._path)
        """By key; None for scans that cannot be scored."""
        self._pending: list[str] = []
        self._thread: threading.Thread | None = None
        self._closed = False

    def scores(self, scans: Sequence[str]) -> dict[str, float]:
        """Return the scores computed so far, by scan; compute the missing ones in the background."""
        keys = {scan: self._key(scan) for scan in scans}
        with self._lock:
            self._pending = [scan for scan, key in keys.items() if key not in self._scores]
            if self._pending and not self._closed and (self._thread is None or not self._thread.is_alive()):
                self._thread = threading.Thread(target=self._score_pending, name="uncertainty", daemon=True)
                self._thread.start()
            known = {scan: self._scores.get(key) for scan, key in keys.items()}
        return {scan: score for scan, score in known.items() if score is not None}

    def wait(self, timeout: float) -> None:
        """Wait until nothing is being computed, at most `timeout` seconds."""
        if self._thread is not None:
            self._thread.join(timeout)

    def close(self) -> None:
        """Stop the computation after the current slice."""
        self._closed = True

    def _key(self, scan: str) -> str:
        """Hash of a scan, its files' times and sizes, and the models."""
        path = self._store.scans.find(scan)
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        stats = [file.stat() for file in files]
        models = " ".join(model.sha256 for model in self._store.models)
        text = f"{models} {scan} {[(s.st_mtime_ns, s.st_size) for s in stats]}"
        return uuid.uuid5(uuid.NAMESPACE_URL, text).hex

    def _score_pending(self) -> None:
        while True:
            with self._lock:
                if self._closed or not self._pending:
                    self._thread = None
                    return
                scan = self._pending.pop(0)
            try:
                key = self._key(scan)
                self._save(key, self._score(scan))
            except _Closed:
                continue
            except (S2VNetError, OSError):  # the scan was removed, or the disk is full
                _log.warning("the uncertainty of a scan could not be computed or saved")

    def _save(self, key: str, score: float | None) -> None:
        with self._lock:
            self._scores[key] = score
            with atomic_write(self._path) as temporary:
                temporary.write_text(json.dumps(self._scores))

    def _score(self, scan: str) -> float | None:
        """Mean entropy of a scan in nats; None for a scan that cannot be scored, so that it is not tried again."""
        store = self._store

        def progress(done: int, total: int) -> None:
            if self._closed:
                raise _Closed
            store.scheduler.yield_to(SCORING)

        with store.scheduler.acquire(SCORING):
            if self._closed:
                raise _Closed
            try:
                model = store.model_for(scan)
                volume = read_scan(store.scans.find(scan), model.channels, store.settings.max_voxels)
                return float(Session(model.segmenter, volume, progress).slice_uncertainty().mean())
            except _Closed:
                raise
            except Exception as error:  # any fault of a library with one file must not block the other scans
                _log.warning("a scan could not be scored: %s", type(error).__name__)
                return None


def _read(path: Path) -> dict[str, float | None]:
    try:
        scores: dict[str, float | None] = read_json(path)
    except (OSError, ValueError):
        return {}
    return scores
