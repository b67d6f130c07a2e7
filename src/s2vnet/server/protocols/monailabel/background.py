"""Work on many images in the background, one job of a kind at a time, with its status in MONAI Label's form."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from fastapi import HTTPException

from s2vnet.errors import S2VNetError, describe_calls
from s2vnet.inference.model_set import choose_plan
from s2vnet.interactive.session import Session
from s2vnet.io.geometry import LabelMap
from s2vnet.server.messages import without_folders
from s2vnet.server.model_library import ServedModel
from s2vnet.server.scan_library import read_scan
from s2vnet.server.scheduler import SCORING
from s2vnet.server.session_store import SessionStore

RUNNING, DONE, STOPPED = "RUNNING", "DONE", "STOPPED"
_MAX_JOBS = 100
"""Jobs whose status is kept."""
_MAX_DETAILS = 20
_log = logging.getLogger(__name__)


class Stopped(Exception):
    """The job was stopped."""


class BackgroundJobs:
    """Jobs of one kind. Thread-safe."""

    def __init__(self, kind: str, folders: Sequence[Path] = ()) -> None:
        """Args: what the jobs do, for messages, and the folders that messages must not name."""
        self._kind, self._folders = kind, folders
        self._lock = threading.Lock()
        self._jobs: list[dict[str, Any]] = []
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def start(
        self, request: Mapping[str, Any], images: Sequence[str], work: Callable[[str], Any], wait: bool = False
    ) -> dict[str, Any]:
        """Start a job, which calls `work` for each image; its results are the job's, its errors are lines in it.

        Args:
            request: what the client asked for, part of the status.
            images: ids of the images.
            work: returns the result of an image; None for none.
            wait: whether to return only at the job's end.

        Raises:
            HTTPException: a job is running.
        """
        with self._lock:
            if self.running:
                raise HTTPException(429, f"{self._kind} is running already; stop it, or wait for its end")
            job: dict[str, Any] = {"id": uuid.uuid4().hex, "status": RUNNING, "request": dict(request)}
            job |= {"start_ts": _now(), "end_ts": None, "details": [], "result": {}}
            self._jobs = [*self._jobs, job][-_MAX_JOBS:]
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, args=(job, images, work), name=self._kind, daemon=True)
            self._thread.start()
        if wait:
            self.wait()
        with self._lock:
            return self._copy(job)

    def status(self, all: bool, check_if_running: bool) -> Any:
        """Return the last job, or all of them. Raises HTTPException if there is none, as clients expect."""
        with self._lock:
            if not self._jobs or (check_if_running and not self.running):
                raise HTTPException(404, f"no {self._kind} is running")
            return [self._copy(job) for job in self._jobs] if all else self._copy(self._jobs[-1])

    def stop(self) -> dict[str, Any] | None:
        """Stop the running job after its current slice; return the last one."""
        self._stop.set()
        self.wait()
        with self._lock:
            return self._copy(self._jobs[-1]) if self._jobs else None

    def wait(self, timeout: float | None = None) -> None:
        """Wait for the end of the running job, at most `timeout` seconds."""
        if self._thread is not None:
            self._thread.join(timeout)

    def require_unstopped(self) -> None:
        """Raise Stopped if the job is to stop; for work that takes long."""
        if self._stop.is_set():
            raise Stopped

    @property
    def running(self) -> bool:
        """Whether a job is running."""
        return self._thread is not None and self._thread.is_alive()

    def _run(self, job: dict[str, Any], images: Sequence[str], work: Callable[[str], Any]) -> None:
        status = DONE
        for number, image in enumerate(images, 1):
            try:
                self.require_unstopped()
                result, line = work(image), f"{number} of {len(images)}"
            except Stopped:
                status = STOPPED
                break
            except (S2VNetError, OSError) as error:  # of one image, which must not end the job
                result, line = None, str(error) if isinstance(error, S2VNetError) else str(error.strerror)
                line = f"{number} of {len(images)}: {without_folders(line, self._folders)}"
            except Exception as error:
                _log.error("%s of an image failed\n%s", self._kind, describe_calls(error))
                result, line = None, f"{number} of {len(images)}: {type(error).__name__}"
            with self._lock:
                job["result"] |= {} if result is None else {image: result}
                job["details"] = [*job["details"], line][-_MAX_DETAILS:]
        with self._lock:
            job["status"], job["end_ts"] = status, _now()

    def _copy(self, job: dict[str, Any]) -> dict[str, Any]:
        return {**job, "result": dict(job["result"])}


def segment_in_background(store: SessionStore, model: ServedModel, scan: str, check: Callable[[], None]) -> LabelMap:
    """Segment a scan while no session computes.

    Args:
        store: the sessions, which go first.
        model: the model.
        scan: id of the scan.
        check: called after each slice; its exception ends the work.

    Raises:
        InputError: no such scan, a damaged one, too many voxels, or one that contradicts the model's modality.
    """

    def progress(done: int, total: int) -> None:
        check()
        store.scheduler.yield_to(SCORING)

    with store.scheduler.acquire(SCORING):
        check()
        path = store.scans.find(scan)
        volume = read_scan(path, model.channels, store.settings.max_voxels)
        if store.refuses_other_modality(scan):
            choose_plan([model.plan], volume, path)
        return Session(model.segmenter, volume, progress).result


def _now() -> str:
    return f"{datetime.now():%Y-%m-%d %H:%M:%S}"
