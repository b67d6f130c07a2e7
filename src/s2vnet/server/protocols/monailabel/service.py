"""State of MONAI Label's API: a session for each scan, saved labels, uncertainties and training jobs."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NamedTuple
from weakref import WeakValueDictionary

from fastapi import Depends, Request

from s2vnet.errors import InputError, NotFoundError
from s2vnet.server.client_watch import ClientGone
from s2vnet.server.messages import private_folders
from s2vnet.server.model_library import ModelLibrary, ServedModel
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
KINDS = {
    AUTOMATIC: ("segmentation", "all classes"),
    CLICKS: ("deepedit", "all classes, corrected by clicks"),
    OBJECT: ("deepgrow", "one object by clicks inside and outside: of the chosen class, or any other"),
    SCRIBBLES: ("scribbles", "one class by scribbles inside and outside"),
}
"""Type and description of each kind of request; a client offers the tools for the types."""
TRAINER = "s2vnet"
"""Name of the trainer of the only model."""
MODEL_KEY = "s2vnet_model"
"""What is known about a label: name of the model whose classes its values are."""


class NamedModel(NamedTuple):
    """What a name of MONAI Label's stands for."""

    model: ServedModel
    kind: str
    """One of :data:`KINDS`."""


def named_models(models: ModelLibrary) -> dict[str, NamedModel]:
    """Return the names that clients choose from: the kinds for the only model, ``MODEL-KIND`` for several."""
    if models.only is not None:
        return {kind: NamedModel(models.only, kind) for kind in KINDS}
    return {f"{model.name}-{kind}": NamedModel(model, kind) for model in models for kind in KINDS}


class MonaiLabel:
    """Sessions by scan. Requests on one scan are queued, since each replaces the whole prompt log."""

    def __init__(self, store: SessionStore) -> None:
        settings = store.settings
        self.store, self.images = store, ImageIds(store.scans, settings.token)
        self.labels = SavedLabels(settings.state / "labels", store.scans.find)
        self.uncertainty = UncertaintyRanking(store)
        self.models = named_models(store.models)
        self.trainers = {TRAINER if store.models.only else model.name: model for model in store.models}
        """Models that a training starts from, by the trainer's name."""
        self.trainer = TrainingJobs(settings.state / TRAINING, settings.device)
        folders = private_folders(settings)
        self.batch_jobs = BackgroundJobs("batch inference", folders)
        self.scoring_jobs = BackgroundJobs("scoring", folders)
        self.training_queue = RequestQueue()
        """Queue of requests that wait for a training to stop."""
        self._sessions: dict[tuple[str, str], str] = {}
        """Names of sessions by scan and model."""
        self._last_models: dict[str, ServedModel] = {}
        """Model of the last request on a scan."""
        self._queues: WeakValueDictionary[str, RequestQueue] = WeakValueDictionary()

    def queue(self, scan: str) -> RequestQueue:
        """Return the queue of requests on a scan."""
        return self._queues.setdefault(scan, RequestQueue())

    @contextmanager
    def session(self, scan: str, model: ServedModel) -> Iterator[SessionWorker]:
        """Open or reuse the session of a scan and a model; only within its :meth:`queue`.

        Raises:
            InputError: an unknown scan.
        """
        self.store.scans.find(scan)
        try:
            worker = self.store.get(self._sessions.get((scan, model.name), ""))
        except InputError:
            worker = self.store.open(scan, model.name)
            self._sessions[scan, model.name] = worker.name
        self._last_models[scan] = model
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
        """End the sessions of a scan."""
        self._last_models.pop(scan, None)
        for key in [key for key in list(self._sessions) if key[0] == scan]:
            with contextlib.suppress(InputError):
                self.store.end(self._sessions.pop(key, ""))

    def named(self, name: str) -> NamedModel:
        """Return what a name stands for. Raises InputError if there is no such name."""
        if name not in self.models:
            raise NotFoundError(f"no such model: {name[:64]!r}; choose one of {', '.join(self.models)}")
        return self.models[name]

    def model_of_label(self, scan: str, names: Collection[str]) -> ServedModel:
        """Return the model to whose classes a client's label of a scan refers.

        That is the one that knows most of its names; of several, the model of the last request on the scan, or the one
        that fits it.
        """
        if (only := self.store.models.only) is not None:
            return only
        preferred = self._last_models.get(scan) or self._fitting(scan)
        known = {model: len(set(names) & set(model.classes.values())) for model in self.store.models}
        return max(known, key=lambda model: (known[model], model is preferred))

    def _fitting(self, scan: str) -> ServedModel | None:
        try:
            return self.store.model_for(scan)
        except InputError:
            return None

    def final_images(self) -> list[str]:
        """Return the ids of the images that have a final label."""
        return [image for image in self.images.all() if FINAL in self.labels.tags(image)]

    def labelled_scans(self, model: ServedModel) -> list[LabelledScan]:
        """Return the files of the images that have a final label of a model's classes."""
        find, path = self.store.scans.find, self.labels.path
        images = [image for image in self.final_images() if self.label_model(FINAL, image) == model.name]
        return [LabelledScan(find(image), path(FINAL, image)) for image in images]

    def latest_trainer(self) -> str:
        """Return the name of the trainer of the last training, or of the first one."""
        latest = self.trainer.latest_model()
        return next((name for name, model in self.trainers.items() if model.name == latest), next(iter(self.trainers)))

    def label_model(self, tag: str, image: str) -> str:
        """Return the name of the model whose classes a saved label has. Raises InputError if there is no such label."""
        return str(self.labels.label_info(tag, image).get(MODEL_KEY, self.store.models.first.name))

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


def parse_params(text: str) -> dict[str, Any]:
    """Parse the form field `params`. Raises InputError for anything but a JSON object."""
    try:
        params = parse_json(text or "{}")
    except ValueError:
        params = None
    if not isinstance(params, dict):
        raise InputError("params is not a JSON object")
    return params
