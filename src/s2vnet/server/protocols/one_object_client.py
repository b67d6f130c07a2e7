"""Clients of protocols that show one object at a time: each sees one class of the labels of its own session.

That is a class of a model, or one that the client's first prompt adds and that prompts alone segment.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from s2vnet.errors import CapacityError, InputError
from s2vnet.interactive.check_entries import new_class
from s2vnet.io.geometry import Volume
from s2vnet.prompts import Entry, NewClass, Prompt, Voxel
from s2vnet.server.client_watch import ClientGone, ClientWatch
from s2vnet.server.model_library import ModelLibrary, ServedModel
from s2vnet.server.request_queue import RequestQueue
from s2vnet.server.schemas import Add, Step
from s2vnet.server.session_store import SessionStore
from s2vnet.server.session_worker import Orient, SessionWorker

OBJECT = "object"
"""Name of an object that is no class of the model."""


class Target(NamedTuple):
    """What a client segments."""

    model: ServedModel | None = None
    """None: the one that fits the client's image."""
    class_id: int | None = None
    """Class of the model; None: an object of its own."""


class ObjectClient:
    """A client: the session of its image, and the class that it sees."""

    upload_route: str
    """Route by which clients upload their image, for error messages."""

    def __init__(self, store: SessionStore, target: Target) -> None:
        """Args: the sessions, and the model and class of all prompts."""
        self.name = uuid.uuid4().hex
        self.queue = RequestQueue()
        """Queue of requests that change the client or its session."""
        self.last_active = time.monotonic()
        self.session = ""
        """Name of its session, which the store may close and restore between two requests."""
        self.image: Path | None = None
        self.shape: Voxel = (1, 1, 1)
        self._store, self._target = store, target
        self.added: NewClass | None = None
        """Class that the first prompt adds, unless the object is of a class of the model."""

    @property
    def class_id(self) -> int:
        """Class of all prompts. Raises InputError without an image, whose model may define it."""
        if self._target.class_id is not None:
            return self._target.class_id
        if self.added is None:
            raise InputError(f"no image yet; {self.upload_route} comes first")
        return self.added.class_id

    def worker(self) -> SessionWorker:
        """Return its session. Raises InputError without an image, and as :meth:`SessionStore.get`."""
        session = self.session  # another thread may close the client at any time
        if not session:
            raise InputError(f"no image yet; {self.upload_route} comes first")
        return self._store.get(session)

    def wait_open(self, seconds: float, client: ClientWatch | None = None) -> None:
        """Wait until the image is encoded; a client that leaves meanwhile loses the image.

        Raises:
            InputError: as :meth:`SessionWorker.when_ready`.
        """
        try:
            self.worker().wait_ready(seconds, client)
        except ClientGone:
            self.close()
            raise

    def models(self, channels: int) -> ModelLibrary:
        """Return the models that may take the client's image. Raises InputError if none takes its channels."""
        chosen = self._target.model
        return (self._store.models if chosen is None else ModelLibrary([chosen])).with_channels(channels)

    def replace_image(self, volume: Volume, orient: Callable[[ServedModel], Orient] | None = None) -> None:
        """Replace the image, which is encoded in the background.

        Args:
            volume: new image.
            orient: returns what corrects the grid by a model, as of :meth:`SessionStore.open_volume`.

        Raises:
            InputError: no model takes its channels, or no label value is left for the object.
            CapacityError: as :meth:`SessionStore.open_volume`.
        """
        models = self.models(len(volume.data))
        model = models.only or models.choose(volume)[0]
        self.close()
        opened = self._store.open_volume(volume, model, None if orient is None else orient(model))
        self.attach(opened, volume.geometry.shape)

    def attach(self, worker: SessionWorker, shape: Voxel) -> None:
        """Use a session on an image of a shape (I, J, K)."""
        self.session, self.image, self.shape = worker.name, worker.path, shape
        self.added = object_class(worker.model.classes) if self._target.class_id is None else None
        self.reset()

    def close(self) -> None:
        """End the session and delete the image."""
        session, image, self.session, self.image = self.session, self.image, "", None
        if session:
            with contextlib.suppress(InputError):
                self._store.end(session)
        if image is not None:
            image.unlink(missing_ok=True)

    def reset(self) -> None:
        """Begin a new object on the same image."""

    def reset_prompts(self) -> None:
        """Remove all prompts, and begin a new object."""
        if self.session:
            self.worker().apply(Step(op="reset"))
        self.reset()

    def suspend(self) -> None:
        """Stop opening the client's image until its next request."""
        session = self.session
        if session:
            self._store.suspend(session)

    def object_mask(self, seconds: float, client: ClientWatch | None = None) -> npt.NDArray[np.bool_]:
        """Return the object (I, J, K) once all prompts are computed.

        Prompts that are not computed when the client leaves are given up. Where only the time is over, they go on, and
        the next request gets their result.

        Raises:
            InputError: as :meth:`SessionWorker.when_ready`.
        """
        worker = self.worker()
        try:
            labels = worker.wait_ready(seconds, client).labels
        except ClientGone:
            worker.abandon()
            raise
        mask: npt.NDArray[np.bool_] = labels == self.class_id
        return mask

    def add_prompt(self, worker: SessionWorker, prompt: Prompt) -> None:
        """Add a prompt, together with the object's class if the log does not have it yet.

        Raises:
            InputError: as :meth:`SessionWorker.apply`.
        """
        entries: tuple[Entry, ...] = (prompt,)
        if self.added is not None and self.added not in worker.log:
            entries = (self.added, prompt)
        worker.apply(Add(entries=entries))


def object_class(names: Mapping[int, str]) -> NewClass:
    """Return a class for an object beside classes by label value. Raises InputError when no label value is left."""
    known = {name.casefold() for name in names.values()}
    name = next(name for name in (OBJECT, *(f"{OBJECT} {n}" for n in range(2, 257))) if name not in known)
    return new_class(name, names)


Client = TypeVar("Client", bound=ObjectClient)


class ObjectClients(ABC, Generic[Client]):
    """All clients of a protocol, by name. Thread-safe."""

    def __init__(self, store: SessionStore) -> None:
        self.store = store
        self._lock = threading.Lock()
        self._clients: dict[str, Client] = {}

    @abstractmethod
    def _expired(self, now: float) -> list[Client]:
        """Return the clients to remove before another one is added, at a monotonic time in seconds."""

    def add(self, client: Client) -> Client:
        """Add a client; expired ones are removed. Raises CapacityError when there are too many."""
        limit = self.store.settings.max_sessions
        with self._lock:
            expired = self._expired(time.monotonic())
            for other in expired:
                del self._clients[other.name]
            full = len(self._clients) >= limit
            if not full:
                self._clients[client.name] = client
        for other in expired:
            other.close()
        if full:
            raise CapacityError(f"all {limit} sessions are taken; try again in a while")
        return client

    def remove(self, name: str) -> bool:
        """Remove a client and end its session; False if there is no such client."""
        with self._lock:
            client = self._clients.pop(name, None)
        if client is not None:
            client.close()
        return client is not None
