"""State of MONAI Label's API: a session for each scan, saved labels, uncertainties and training jobs."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any
from weakref import WeakValueDictionary

from fastapi import Depends, Request

from s2vnet.errors import InputError
from s2vnet.io.files import write_labels
from s2vnet.io.geometry import LabelMap
from s2vnet.server.request_queue import RequestQueue
from s2vnet.server.scan_library import ScanLibrary
from s2vnet.server.session_store import TRAINING, SessionStore
from s2vnet.server.session_worker import SessionWorker
from s2vnet.server.training_dataset import LabelledScan
from s2vnet.server.training_jobs import TrainingJobs
from s2vnet.server.uncertainty_ranking import UncertaintyRanking
from s2vnet.utils.json_io import parse_json

AUTOMATIC, CLICKS = "automatic", "clicks"
TRAINER = "s2vnet"
LABEL_ENDING = ".nii.gz"
TAGS = ("final", "original")


class SavedLabels:
    """Labels that clients have saved, by tag and scan."""

    def __init__(self, folder: Path, scans: ScanLibrary) -> None:
        self._folder, self._scans = folder, scans

    def path(self, tag: str, scan: str) -> Path:
        """Return the path of a label, which may not exist yet; it depends on the scan's absolute path.

        Raises:
            InputError: the tag is neither `final` nor `original`, or there is no such scan.
        """
        if tag not in TAGS:
            raise InputError(f"no tag {tag!r}; labels are {' or '.join(TAGS)}")
        scan_path = str(self._scans.find(scan).resolve())
        return self._folder / tag / (uuid.uuid5(uuid.NAMESPACE_URL, scan_path).hex + LABEL_ENDING)

    def tags(self, scan: str) -> list[str]:
        """List the tags of a scan's labels."""
        return [tag for tag in TAGS if self.path(tag, scan).exists()]

    def save(self, tag: str, scan: str, labels: LabelMap) -> None:
        """Save a label; an earlier one of the tag is replaced."""
        path = self.path(tag, scan)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_labels(path, labels)


class MonaiLabel:
    """Sessions by scan. Requests on one scan are queued, since each replaces the whole prompt log."""

    def __init__(self, store: SessionStore) -> None:
        settings = store.settings
        self.store, self.labels = store, SavedLabels(settings.state / "labels", store.scans)
        self.uncertainty = UncertaintyRanking(store)
        self.trainer = TrainingJobs(settings.state / TRAINING, store.segmenter, settings.model, settings.device)
        self.training_queue = RequestQueue()
        """Queue of requests that wait for a training to stop."""
        self._session_names: dict[str, str] = {}
        self._queues: WeakValueDictionary[str, RequestQueue] = WeakValueDictionary()

    def queue(self, scan: str) -> RequestQueue:
        """Return the queue of requests on a scan."""
        return self._queues.setdefault(scan, RequestQueue())

    @contextmanager
    def session(self, scan: str) -> Iterator[SessionWorker]:
        """Open or reuse the session of a scan; only within its :meth:`queue`. Raises InputError for an unknown scan."""
        self.store.scans.find(scan)
        try:
            worker = self.store.get(self._session_names.get(scan, ""))
        except InputError:
            worker = self.store.open(scan)
            self._session_names[scan] = worker.name
        try:
            yield worker
        except InputError:
            if worker.state().status == "failed":
                self.end_session(scan)
            raise

    def end_session(self, scan: str) -> None:
        """End the session of a scan."""
        with contextlib.suppress(InputError):
            self.store.end(self._session_names.pop(scan, ""))

    def labelled_scans(self) -> list[LabelledScan]:
        """List the scans in the data folder that have a final label."""
        scans = [scan.id for scan in self.store.scans.list_scans() if "final" in self.labels.tags(scan.id)]
        return [LabelledScan(self.store.scans.find(scan), self.labels.path("final", scan)) for scan in scans]

    def close(self) -> None:
        """Stop background work."""
        self.uncertainty.close()
        self.trainer.close()


def _service(request: Request) -> MonaiLabel:
    service: MonaiLabel = request.app.state.monailabel
    return service


ServiceDep = Annotated[MonaiLabel, Depends(_service)]


def parse_params(text: str) -> dict[str, Any]:
    """Parse the form field `params`. Raises InputError for anything but a JSON object."""
    try:
        params = parse_json(text or "{}")
    except ValueError:
        params = None
    if not isinstance(params, dict):
        raise InputError("params is not a JSON object")
    return params
