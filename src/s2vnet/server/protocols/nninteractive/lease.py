"""Clients of nnInteractive's protocol, and when their leases end."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi import HTTPException, Response

from s2vnet.errors import InputError, NotFoundError
from s2vnet.interactive.voxelize import is_prompt
from s2vnet.io.geometry import Region, Volume
from s2vnet.prompts import Extent, Prompt
from s2vnet.server.client_watch import ClientWatch
from s2vnet.server.model_library import ModelLibrary, ServedModel
from s2vnet.server.protocols.array_codec import pack, read_shape, unpack
from s2vnet.server.protocols.nninteractive.array_geometry import (
    ImageProperties,
    array_geometry,
    orient_by_content,
    require_axes,
)
from s2vnet.server.protocols.one_object_client import ObjectClient, ObjectClients, Target
from s2vnet.server.schemas import Replace, Step
from s2vnet.server.session_store import SessionStore
from s2vnet.server.session_worker import Orient
from s2vnet.utils.components import bounding_box

ANY = "any"
"""Part of an address for an object of its own."""
LIVENESS_S = 15.0
"""Seconds without a request or heartbeat after which nothing is computed for a client. Clients are told this time, and
send two heartbeats in it."""
EXPIRY_S = 60.0
"""Seconds without a request or heartbeat after which a client is removed, with its image."""
RESPONSE_S = 50.0
"""Seconds after which a request is answered by 503 while the image is still being encoded; clients give up after 60."""


class Lease(ObjectClient):
    """A client with its lease token, and the object as it was last sent to the client."""

    upload_route = "set_image"

    def __init__(self, store: SessionStore, target: Target, codes: str | None) -> None:
        """Args: as :class:`ObjectClient`, and the axis codes of its arrays by the address, if any."""
        super().__init__(store, target)
        self.codes = codes
        self.last_seen = self.last_active
        """Monotonic time of the last request or heartbeat, seconds."""
        self.interactions = 0
        """Number of interactions since the last reset; all of them can be undone."""
        self.shown: npt.NDArray[np.bool_] = np.zeros(self.shape, bool)
        """The object (I, J, K) as the client has it."""

    def set_image(self, message: bytes, properties: ImageProperties) -> dict[str, list[int]]:
        """Replace the image by a packed array (C, I, J, K), which is encoded in the background.

        Raises:
            InputError: it is damaged, too large, its stated grid is invalid, or no model takes its channels.
            CapacityError: as :meth:`SessionStore.open_volume`.
        """
        limit = self._store.settings.max_voxels * max(model.channels for model in self._store.models)
        channels, i, j, k = read_shape(message, 4, limit)
        models = self.models(channels)
        geometry, stated = array_geometry((i, j, k), properties, self.codes)
        if models.only is not None:
            self._store.memory.require(models.only.segmenter.opening_nbytes(geometry))
        with self._store.memory.unpacking:
            sent = unpack(message, 4, self._store.settings.max_voxels * channels)
            with np.errstate(over="ignore"):  # beyond float32 it is infinite, which is refused or filled as such
                image = sent.astype(np.float32, copy=False)
            self.replace_image(Volume(image, geometry), None if stated else _orient_by)
        self.last_active = time.monotonic()
        return {"original_image_shape": [channels, i, j, k]}

    def reset(self) -> None:
        """Begin a new object on the same image."""
        super().reset()
        self.interactions, self.shown = 0, np.zeros(self.shape, bool)

    def interact(self, prompt: Prompt, predict: bool, seconds: float, client: ClientWatch | None = None) -> Response:
        """Add a prompt. Nothing is added while the image is being encoded.

        Args:
            prompt: of the object's class.
            predict: whether to respond with the change of the object.
            seconds: time limit.
            client: that waits; without it any longer, nothing is added.

        Raises:
            InputError: the prompt is invalid, or as :meth:`SessionWorker.when_ready`.
        """
        worker, end = self.worker(), time.monotonic() + min(seconds, RESPONSE_S)
        worker.wait_ready(end - time.monotonic(), client)
        self.add_prompt(worker, prompt)
        self.interactions += 1
        return self.change(end - time.monotonic(), client) if predict else prediction(None, False)

    def initialize(
        self, labels: npt.NDArray[np.bool_], predict: bool, seconds: float, client: ClientWatch | None = None
    ) -> Response:
        """Begin with a segmentation (I, J, K) of the client, which it shows already.

        All earlier prompts are removed, and the segmentation cannot be undone, as in nnInteractive.

        Raises:
            InputError: another shape than the image's, or as :meth:`SessionWorker.when_ready`.
        """
        worker, end = self.worker(), time.monotonic() + min(seconds, RESPONSE_S)
        if labels.shape != self.shape:
            raise InputError(f"a segmentation of {labels.shape} voxels on an image of {self.shape}")
        self.shown = labels  # the client has overwritten its array; the next response corrects it
        worker.wait_ready(end - time.monotonic(), client)
        added = () if self.added is None else (self.added,)
        start = (*added, Extent.from_array(labels, self.class_id)) if labels.any() else ()
        worker.apply(Replace(entries=start))
        self.interactions = 0
        return self.change(end - time.monotonic(), client) if predict else prediction(None, False)

    def undo(self, seconds: float, client: ClientWatch | None = None) -> Response:
        """Undo the last interaction."""
        if not self.session or not self.interactions:
            return prediction(None, False)
        self.worker().apply(Step(op="undo"))
        self.interactions -= 1
        return self.change(seconds, client)

    def change(self, seconds: float, client: ClientWatch | None = None) -> Response:
        """Respond with the change of the object since it was last sent."""
        worker = self.worker()
        try:
            mask = self.object_mask(min(seconds, RESPONSE_S), client)
            if not worker.log:
                mask = np.zeros_like(self.shown)
        except InputError:  # prompts that were rejected or given up cannot be undone
            self.interactions = sum(map(is_prompt, worker.log))
            raise
        self.last_active = time.monotonic()
        box = bounding_box(mask != self.shown)
        self.shown = mask
        return prediction(box, True, None if box is None else mask[box], worker.warnings)

    @property
    def is_silent(self) -> bool:
        """Whether the client has left without saying so: it neither sends heartbeats nor waits for a response."""
        return time.monotonic() - self.last_seen > LIVENESS_S and not self.queue.num_open

    def remaining_s(self) -> float:
        """Return the seconds until the lease ends without further activity."""
        return max(0.0, self._store.settings.lease_s - (time.monotonic() - self.last_active))


class LeasedClients(ObjectClients[Lease]):
    """All clients of this protocol. They expire without heartbeats, and when they are idle for the time of a lease."""

    def claim(self, label: str | None, codes: str | None) -> Lease:
        """Add a client. Raises CapacityError when there are too many, InputError for an unknown class or axis codes."""
        target = Target() if label is None else find_target(label, self.store.models)
        return self.add(Lease(self.store, target, codes and require_axes(codes)))

    def expire(self) -> None:
        """Remove clients that have left, and end their work; to be called periodically."""
        with self._lock:
            expired = self._expired(time.monotonic())
            silent = [lease for lease in self._clients.values() if lease.is_silent and lease not in expired]
        for lease in expired:
            self.remove(lease.name)
        for lease in silent:
            lease.suspend()

    def get(self, token: str) -> Lease:
        """Return the lease of a token. Raises HTTPException 410 when it is unknown or has expired."""
        self.expire()
        with self._lock:
            if token not in self._clients:
                raise HTTPException(410, "lease expired or unknown; connect again")
            return self._clients[token]

    def _expired(self, now: float) -> list[Lease]:
        lease_s = self.store.settings.lease_s
        clients = self._clients.values()
        return [c for c in clients if now - c.last_seen > EXPIRY_S or now - c.last_active > lease_s]


def find_target(label: str, models: ModelLibrary) -> Target:
    """Return what an address names: ``any``, a class, a model, or ``MODEL:CLASS``; a class by name or value.

    Raises:
        InputError: none of these, or a class that several models have.
    """
    if label == ANY:
        return Target()
    name, colon, class_name = label.partition(":")
    if name in models.names and (colon or models.only is None):
        model = models.get(name)
        return Target(model, None if class_name in ("", ANY) else _class_of(class_name, model))
    knowing = [model for model in models if _has_class(label, model)]
    if len(knowing) > 1:
        choices = " or ".join(f"{model.name}:{label}" for model in knowing)
        raise InputError(f"several models have a class {label[:64]!r}; name one by {choices}")
    if not knowing and models.only is None:
        raise NotFoundError(
            f"no such class or model {label[:64]!r}; this server has the models {', '.join(models.names)}"
        )
    model = knowing[0] if knowing else models.first
    return Target(model, _class_of(label, model))


def _has_class(label: str, model: ServedModel) -> bool:
    return any(label in (name, str(class_id)) for class_id, name in model.classes.items())


def _class_of(label: str, model: ServedModel) -> int:
    for class_id, name in model.classes.items():
        if label in (name, str(class_id)):
            return class_id
    raise NotFoundError(f"no such class {label[:64]!r}; the model knows {', '.join(model.classes.values())}")


def _orient_by(model: ServedModel) -> Orient:
    return lambda path, between: orient_by_content(model.segmenter, path, between)


def prediction(
    box: Region | None, predicted: bool, labels: npt.NDArray[np.bool_] | None = None, warnings: Sequence[str] = ()
) -> Response:
    """Respond with the change of an object: its bounding box, and the object's voxels inside.

    Clients ignore warnings, which are beyond the protocol.
    """
    meta: dict[str, Any] = {"ran_prediction": predicted, "bbox": None, "warnings": warnings}
    if box is not None and labels is not None:
        meta |= {"bbox": [[s.start, s.stop] for s in box], "dtype": "uint8", "shape": list(labels.shape)}
    body = b"" if labels is None else pack(labels.astype(np.uint8))
    return Response(body, media_type="application/octet-stream", headers={"x-meta": json.dumps(meta)})
