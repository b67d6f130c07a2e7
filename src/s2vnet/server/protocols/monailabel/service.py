"""State of MONAI Label's API: a session for each scan, saved labels, uncertainties and training jobs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any
from weakref import WeakValueDictionary

from fastapi import Depends, Request

from s2vnet.errors import InputError
from s2vnet.server.client_watch import ClientGone
from s2vnet.server.messages import private_folders
from s2vnet.server.protocols.monailabel.background import BackgroundJobs
from s2vnet.server.protocols.monailabel.image_ids import ImageIds
from s2vnet.server.protocols.monailabel.saved_labels import FINAL, SavedLabels
from s2vnet.server.request_queue import RequestQueue
from s2vnet.server.session_store import TRAINING, SessionStore
from s2vnet.server.session_worker import SessionWorker
from s2vnet.server.training_dataset import LabelledScan
from s2vnet.server.training_jobs import TrainingJobs
from s2vnet.server.uncertainty_ranking import UncertaintyRanking
from s2vnet.utils.json_io import parse_json

AUTOMATIC, CLICKS, OBJECT, SCRIBBLES = "automatic", "clicks", "object", "scribbles"
MODELS = {
    AUTOMATIC: ("segmentation", "all classes"),
    CLICKS: ("deepedit", "all classes, corrected by clicks"),
    OBJECT: ("deepgrow", "one object by clicks inside and outside: of the chosen class, or any other"),
    SCRIBBLES: ("scribbles", "one class by scribbles inside and outside"),
}
"""Type and description of each name of the model; a client offers the tools for the types."""
TRAINER = "s2vnet"


class MonaiLabel:
    """Sessions by scan. Requests on one scan are queued, since each replaces the whole prompt log."""

    def __init__(self, store: SessionStore) -> None:
        settings = store.settings
        self.store, self.images = store, ImageIds(store.scans, settings.token)
        self.labels = SavedLabels(settings.state / "labels", store.scans.find)
        self.uncertainty = UncertaintyRanking(store)
        self.trainer = TrainingJobs(settings.state / TRAINING, store.segmenter, settings.model, settings.device)
        folders = private_folders(settings)
        self.batch_jobs = BackgroundJobs("batch inference", folders)
        self.scoring_jobs = BackgroundJobs("scoring", folders)
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
        except ClientGone:  # unless the next request needs the same, nothing more is computed
            if not self.queue(scan).num_waiting and not worker.abandon():
                self.end_session(scan)
            raise
        except InputError:
            if worker.state().status == "failed":
                self.end_session(scan)
            raise

    def end_session(self, scan: str) -> None:
        """End the session of a scan."""
        with contextlib.suppress(InputError):
            self.store.end(self._session_names.pop(scan, ""))

    def final_images(self) -> list[str]:
        """Return the ids of the images that have a final label."""
        return [image for image in self.images.all() if FINAL in self.labels.tags(image)]

    def labelled_scans(self) -> list[LabelledScan]:
        """Return the files of the images that have a final label."""
        find, path = self.store.scans.find, self.labels.path
        return [LabelledScan(find(image), path(FINAL, image)) for image in self.final_images()]

    def close(self) -> None:
        """Stop background work."""
        self.uncertainty.close()
        self.batch_jobs.stop()
        self.scoring_jobs.stop()
        self.trainer.close()


def _service(request: Request) -> MonaiLabel:
    service: MonaiLabel = request.app.state.monailabel
    return service


ServiceDep = Annotated[MonaiLabel, Depends(_service)]


def require_model(name: str) -> str:
    """Return the name of a model. Raises InputError if there is none of this name."""
    if name not in MODELS:
        raise InputError(f"no such model: {name[:64]!r}; choose one of {', '.join(MODELS)}")
    return name


def parse_params(text: str) -> dict[str, Any]:
    """Parse the form field `params`. Raises InputError for anything but a JSON object."""
    try:
        params = parse_json(text or "{}")
    except ValueError:
        params = None
    if not isinstance(params, dict):
        raise InputError("params is not a JSON object")
    return params
