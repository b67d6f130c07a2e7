"""All sessions of a server: lookup, leases, memory limits, and clean-up of the state folder.

Beyond the memory limit, the least recently used sessions are offloaded to the disk. A session without requests for the
time of a lease is closed; it is restored from its record at the client's next request, also after a restart.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

from s2vnet.errors import CapacityError, InputError, NotFoundError
from s2vnet.io.files import write_image
from s2vnet.io.geometry import Volume
from s2vnet.server.folder_lock import FolderLock
from s2vnet.server.initial_labels import read_given_labels, split_labels
from s2vnet.server.memory_budget import SessionMemoryBudget
from s2vnet.server.model_library import ModelLibrary, ServedModel
from s2vnet.server.scan_library import ADDED, UPLOAD_PREFIX, ScanLibrary
from s2vnet.server.scheduler import Scheduler
from s2vnet.server.schemas import Scan, SessionSummary
from s2vnet.server.session_record import RECORD, SessionRecord, read_summary
from s2vnet.server.session_worker import CACHE_FILE, Orient, SessionWorker
from s2vnet.server.settings import Settings
from s2vnet.utils.atomic_write import remove_unfinished
from s2vnet.utils.folders import folder_errors, make_private
from s2vnet.utils.memory import release_freed_memory, resident_nbytes

TRAINING = "training"
"""Folder of training jobs, which may outlive a server and remove their own temporary files."""
_NAME = re.compile("[0-9a-f]{32}")
_SECONDS_PER_DAY = 86400.0
_PRIVATE_FOLDERS = ("sessions", "tmp", "sent", ADDED, "labels", TRAINING)
"""Folders of the state folder that contain data of patients."""


class SessionStore:
    """The sessions of a server. Thread-safe."""

    def __init__(self, settings: Settings, models: ModelLibrary) -> None:
        """Raises InputError for a missing data folder, a read-only state folder, or too little memory for models."""
        self.settings, self.models = settings, models
        self.scheduler = Scheduler()
        loaded = models.nbytes  # part of what is resident
        self.memory = SessionMemoryBudget(
            settings.memory_mb * 2**20, self._open_sessions, resident_nbytes(), lambda: models.nbytes - loaded
        )
        self._lock = threading.RLock()
        self._clock_offset = time.time() - time.monotonic()
        self._workers: dict[str, SessionWorker] = {}
        self._folder, self.temporary = settings.state / "sessions", settings.state / "tmp"
        with folder_errors(settings.state):
            settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name in _PRIVATE_FOLDERS:
                make_private(settings.state / name)
            self._folder_lock = FolderLock(settings.state)
            quota = settings.sent_mb * 2**20
            self.scans = ScanLibrary(settings.data, settings.state / "sent", quota, self._scans_in_use)
        if self._folder_lock.exclusive:
            self._remove_leftovers()
        self._folder_lock.share()

    def _remove_leftovers(self) -> None:
        """Remove temporary files of servers that were killed."""
        remove_unfinished(self.settings.state, exclude=self.settings.state / TRAINING)
        for path in [*self._folder.glob(f"*/{CACHE_FILE}"), *self.temporary.iterdir()]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        for folder in self._folder.iterdir():
            if folder.is_dir() and not (folder / RECORD).is_file():  # killed before a client received its name
                shutil.rmtree(folder, ignore_errors=True)

    def open_with_labels(self, name: str, path: Path) -> SessionWorker:
        """Open a new session on the scan of another one, with its model, which starts from the labels of a file.

        Raises:
            InputError: no such session, or labels that cannot be read or do not fit the scan.
            CapacityError: too many sessions, or the scan has not been read yet.
        """
        other = self.get(name)
        labels, names = read_given_labels(path, other.geometry, self.settings.max_voxels)
        initial, log = split_labels(labels, names, other.model.classes)
        return self.open(other.scan.id, other.model.name, prepare=lambda worker: worker.start_from(initial, log))

    def open(
        self,
        scan: str,
        model: str | None = None,
        orient: Orient | None = None,
        prepare: Callable[[SessionWorker], None] = lambda worker: None,
    ) -> SessionWorker:
        """Open a new session on a scan, which is read and encoded in the background.

        Args:
            scan: id of the scan.
            model: name of the session's model; None: one that fits the scan.
            orient: called before the scan is read, to correct a grid that is not stated.
            prepare: called with the session before it is started.

        Raises:
            InputError: no such scan, no such model, or as :meth:`model_for`.
            CapacityError: too many sessions.
        """
        name = uuid.uuid4().hex
        path, description = self.scans.find(scan), self.scans.describe(scan)
        served = self.model_for(scan) if model is None else self.models.get(model)
        with self._lock:
            self._free_place()
            worker = SessionWorker(name, description, path, self._folder / name, served, *self._shared)
            worker.orient = orient
            worker.refuse_other_modality = self.refuses_other_modality(scan)
            worker.write_record()
            prepare(worker)
            self._workers[name] = worker
        self._touch(path)
        worker.start()
        return worker

    def model_for(self, scan: str) -> ServedModel:
        """Return the model that fits a scan: the first one where several do.

        Raises:
            InputError: no such scan, an unreadable one, or one that contradicts the modality of all models where
                :meth:`refuses_other_modality`.
        """
        path = self.scans.find(scan)
        try:
            model, conflict = self.models.choose_for_file(path, self.settings.max_voxels)
            if conflict is not None and self.refuses_other_modality(scan):
                raise InputError(f"{path}: {conflict}")
        except InputError as error:
            raise error.relocated(path, self.scans.describe(scan).name) from error
        return model

    def refuses_other_modality(self, scan: str) -> bool:
        """Whether a scan is refused whose modality contradicts its model; what a client has sent is segmented."""
        return not self.settings.any_modality and not scan.startswith(UPLOAD_PREFIX)

    def open_volume(self, volume: Volume, model: ServedModel, orient: Orient | None = None) -> SessionWorker:
        """Open a new session on a volume that a client sent as an array; the volume is saved like an uploaded scan.

        Args:
            volume: the image.
            model: of the session.
            orient: as :meth:`open`.

        Raises:
            InputError: the volume cannot be written.
            CapacityError: too many sessions, or no disk space left for uploads.
        """
        scan, path = self.scans.new_upload("sent.nii")
        with self.scans.reserve_disk(volume.data.nbytes):
            write_image(path, volume)
        try:
            return self.open(scan.id, model.name, orient)
        except InputError:
            path.unlink()
            raise

    def get(self, name: str) -> SessionWorker:
        """Return a session by its name; restore it from the disk if it was closed.

        A session that failed after opening is also restored, but only once, so that a permanent fault is not retried
        with every request.

        Raises:
            InputError: no such session.
            CapacityError: too many sessions.
        """
        with self._lock:
            worker = self._workers.get(name)
            reopen = worker is not None and worker.failed_after_opening and not worker.reopened
            if worker is not None and reopen:
                self._evict(name, worker)
            if worker is None or reopen:
                if not _NAME.fullmatch(name) or not (self._folder / name / RECORD).is_file():
                    raise NotFoundError("no such session; open the scan again")
                self._free_place()
                worker = SessionWorker.from_record(self._folder / name, self._find_scan, self.models, *self._shared)
                worker.reopened = reopen
                self._workers[name] = worker
            if not worker.failed:  # failed sessions expire despite requests
                worker.last_used = time.monotonic()
        self._touch(worker.folder / RECORD)
        self._touch(worker.path)
        worker.start()
        return worker

    def _find_scan(self, record: SessionRecord) -> tuple[Scan, Path]:
        """Return the scan of a record: that of its path, or where there is none any more, that of its id.

        The id alone could be that of another file, where another folder is served. Raises InputError for no such scan.
        """
        scan = self._current_id(record.scan.id, record.source)
        if scan is None:
            raise NotFoundError("no such scan here; the session's scan is in a folder that this server does not read")
        return self.scans.describe(scan), self.scans.find(scan)

    def _current_id(self, scan: str, source: str | None) -> str | None:
        if source is None or scan.startswith(UPLOAD_PREFIX) or self.scans.added.find(scan) is not None:
            return scan
        return self.scans.locate(Path(source)) or (None if Path(source).exists() else scan)

    def summaries(self, names: Iterable[str]) -> list[SessionSummary]:
        """Return what is known of sessions that can be continued, the newest first.

        Args:
            names: of sessions that the client knows; all sessions where the settings list them.
        """
        known = [path.name for path in self._folder.iterdir()] if self.settings.list_sessions else names
        found = []
        for name in {name for name in known if _NAME.fullmatch(name)}:
            with contextlib.suppress(InputError):
                summary, source, model = read_summary(self._folder / name)
                scan = self._current_id(summary.image.id, source)
                worker = self._workers.get(name)
                if scan is None or self.models.by_hash(model) is None or (worker is not None and worker.failed):
                    continue
                self.scans.find(scan)
                found.append(summary.model_copy(update={"image": self.scans.describe(scan)}))
        return sorted(found, key=lambda summary: summary.changed, reverse=True)

    def end(self, name: str) -> None:
        """Close a session and delete it. Raises InputError if there is no such session."""
        folder = self._folder / name
        with self._lock:
            worker = self._workers.pop(name, None)
            if worker is not None:
                worker.close()
            elif not _NAME.fullmatch(name) or not (folder / RECORD).is_file():
                raise NotFoundError("no such session; open the scan again")
        shutil.rmtree(folder, ignore_errors=True)

    def suspend(self, name: str) -> None:
        """Stop opening the scan of a session until its next request."""
        with self._lock:
            worker = self._workers.get(name)
        if worker is not None:
            worker.suspend()

    def maintain(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Close expired sessions, enforce the memory limit and delete old files; to be called periodically."""
        with self._lock:
            for name, worker in list(self._workers.items()):
                if self._expired(worker, clock()):
                    self._evict(name, worker)
            idle = sorted((w for w in self._workers.values() if not w.busy), key=lambda w: w.last_used)
        self.memory.offload_idle()  # outside the lock, since writing takes long
        release_freed_memory()
        with self._lock:
            for worker in idle:  # offloading keeps their labels in memory, closing does not
                unused = self._workers.get(worker.name) is worker and not worker.has_listeners and not worker.busy
                if self.memory.excess_nbytes > 0 and unused:
                    self._evict(worker.name, worker)
            if self.memory.excess_nbytes > 0:
                self.models.unload([worker.model for worker in self._workers.values()])
        self._delete_old_files()

    def _delete_old_files(self) -> None:
        """Delete sessions and uploads that were not used for `keep_days`; safe against a clock that is set forward."""
        oldest = min(time.time(), self._clock_offset + time.monotonic()) - self.settings.keep_days * _SECONDS_PER_DAY
        for path in [*self._folder.iterdir(), *(self.settings.state / "sent").iterdir()]:
            if path.name not in self._workers and _last_written(path) < oldest:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close all sessions; their records stay on the disk."""
        with self._lock:
            for name, worker in list(self._workers.items()):
                self._evict(name, worker)
        self._folder_lock.close()

    @property
    def nbytes(self) -> int:
        """Bytes in memory of all sessions."""
        return sum(worker.nbytes for worker in self._open_sessions())

    @property
    def count(self) -> int:
        """Number of open sessions."""
        return len(self._workers)

    @property
    def _shared(self) -> tuple[Scheduler, SessionMemoryBudget, int]:
        """Objects and limits that all sessions share, as arguments of :class:`SessionWorker`."""
        return self.scheduler, self.memory, self.settings.max_voxels

    def _open_sessions(self) -> list[SessionWorker]:
        with self._lock:
            return list(self._workers.values())

    def _scans_in_use(self) -> list[Path]:
        return [worker.path for worker in list(self._workers.values())]

    def _touch(self, path: Path) -> None:
        """Mark a file of the state folder as used now; scans in the data folder are left unchanged."""
        if path.is_relative_to(self.settings.state):
            with contextlib.suppress(OSError):
                os.utime(path)

    def _evict(self, name: str, worker: SessionWorker) -> None:
        """Remove a session from memory; its record stays on the disk."""
        worker.close()
        del self._workers[name]
        (self._folder / name / CACHE_FILE).unlink(missing_ok=True)

    def _expired(self, worker: SessionWorker, now: float) -> bool:
        return not worker.has_listeners and not worker.busy and now - worker.last_used > self.settings.lease_s

    def _free_place(self) -> None:
        """Evict the least recently used session if the maximum is reached. Raises CapacityError if it is in use."""
        if len(self._workers) < self.settings.max_sessions:
            return
        name, worker = min(self._workers.items(), key=lambda item: item[1].last_used)
        if not self._expired(worker, time.monotonic()):
            raise CapacityError(
                f"all {self.settings.max_sessions} sessions are taken; close one, or try again in a while"
            )
        self._evict(name, worker)


def _last_written(path: Path) -> float:
    try:
        return max(part.stat().st_mtime for part in (path, *path.glob("*")))
    except OSError:
        return time.time()
