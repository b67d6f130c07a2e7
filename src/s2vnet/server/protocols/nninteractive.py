"""nnInteractive's server protocol, so that its clients connect unchanged (https://github.com/MIC-DKFZ/nnInteractive).

Those clients know one object at a time and no class: they get one class at a time. Which one is part of the address,
``/nninteractive/liver``; under ``/nninteractive`` the first prompt says it: the class that it lies on, or the most
probable one there. They send arrays without orientation; axes are taken as SimpleITK's arrays have them (slices, rows
to the back, columns to the left), unless the address ends in where they point: ``/nninteractive/liver/RAS``.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Depends, HTTPException, Request, Response
from pydantic import BaseModel, Field

from s2vnet.errors import InputError
from s2vnet.io.geometry import Geometry, Region, Volume
from s2vnet.prompts import Box, Entry, Point, Voxel
from s2vnet.server.api import AStore
from s2vnet.server.protocols.array_codec import pack, unpack
from s2vnet.server.protocols.drawings import entry_of, voxels_of
from s2vnet.server.request_queue import RequestQueue
from s2vnet.server.scan_library import Full
from s2vnet.server.schemas import Add, Step
from s2vnet.server.session_store import SessionStore
from s2vnet.server.session_worker import SessionWorker
from s2vnet.utils.components import bounding_box
from s2vnet.utils.json_io import parse_json

LIVENESS_S = 60.0
"""A client that says nothing for so long is dead; living ones send heartbeats."""
SIMPLEITK = "SPL"
CAPABILITIES = {
    "supported_interactions": dict.fromkeys(("points", "bbox2d", "bbox3d", "scribble", "lasso"), True),
    "channel_mapping": {},
    "num_interaction_channels": 0,
    "supports_initial_label": False,
    "supports_zero_shot_label_refinement": False,
    "preferred_scribble_thickness": 1,
    "interaction_decay": None,
    "patch_size": None,
    "do_autozoom": False,
    "inference_session_version": 2,
    "license": None,
    "supports_undo": True,
}


class Lease:
    """One client: its session, and the object that it sees."""

    def __init__(self, store: SessionStore, token: str, class_id: int | None, codes: str) -> None:
        self.token, self.codes = token, codes
        self._store = store
        self.line = RequestQueue()
        """Where all requests wait that change it or its session, one after the other."""
        self.seen = self.active = time.monotonic()
        self.session = ""
        """Its name: the store may let it go and take it up again between two requests."""
        self.image: Path | None = None
        self._fixed = self.class_id = class_id
        self.taken = 0
        """Interactions since the last reset; so many can be undone."""
        self.shown: npt.NDArray[np.bool_] = np.zeros((1, 1, 1), bool)

    def begin(self, session: str, image: Path, shape: tuple[int, int, int]) -> None:
        """A new image."""
        self.session, self.image, self.shown = session, image, np.zeros(shape, bool)
        self.reset()

    def held(self) -> SessionWorker:
        """Its session. Raises InputError for none yet, and as :meth:`SessionStore.get`."""
        session = self.session  # ending the lease takes it away at any moment
        if not session:
            raise InputError("no image yet; set_image comes first")
        return self._store.get(session)

    def reset(self) -> None:
        """A new object on the same image."""
        self.class_id, self.taken = self._fixed, 0
        self.shown = np.zeros_like(self.shown)

    def interact(
        self, make: Callable[[int], Entry], voxels: Callable[[], npt.ArrayLike], predict: bool, seconds: float
    ) -> Response:
        """Take a prompt; the change of the object if it is asked for, within so many seconds."""
        held = self.held()
        if self.class_id is None:
            self.class_id = held.use(lambda session: session.likely_class(voxels()), seconds)
        held.ask(Add(entries=(make(self.class_id),)))
        self.taken += 1
        return self.change(seconds) if predict else _reply(None, False)

    def change(self, seconds: float) -> Response:
        """What of the object is different from what the client knows."""
        held = self.held()
        try:
            now = held.wait(seconds).labels == self.class_id if self.taken else np.zeros_like(self.shown)
        except InputError:  # a prompt that was left out cannot be undone
            self.taken = len(held.state().entries)
            raise
        self.active = time.monotonic()
        box = bounding_box(now != self.shown)
        self.shown = now
        return _reply(box, True, None if box is None else now[box])


class Leases:
    """All clients of this protocol."""

    def __init__(self, store: SessionStore) -> None:
        self.store = store
        self._lock = threading.Lock()
        self._leases: dict[str, Lease] = {}

    def claim(self, label: str | None, codes: str) -> Lease:
        """A place for a client. Raises Full when there is none, InputError for no such class or axes."""
        class_id = None if label in (None, "any") else self._class_of(str(label))
        if sorted("RASLPI".index(c) % 3 for c in codes if c in "RASLPI") != [0, 1, 2] or len(codes) != 3:
            raise InputError(f"no such axes {codes!r}; three of R/L, A/P and S/I say where they point")
        self.sweep()
        with self._lock:
            if len(self._leases) >= self.store.settings.max_sessions:
                raise Full(f"all {self.store.settings.max_sessions} sessions are taken; try again in a while")
            lease = Lease(self.store, uuid.uuid4().hex, class_id, codes)
            self._leases[lease.token] = lease
        return lease

    def get(self, token: str) -> Lease:
        """The lease of a token, or an HTTP error 410."""
        self.sweep()
        with self._lock:
            if token not in self._leases:
                raise HTTPException(410, "lease expired or unknown; connect again")
            return self._leases[token]

    def release(self, token: str) -> None:
        """Give a place back."""
        with self._lock:
            lease = self._leases.pop(token, None)
        if lease is not None:
            self.end(lease)

    def end(self, lease: Lease) -> None:
        """End a client's session, and forget the image that it sent."""
        session, image, lease.session, lease.image = lease.session, lease.image, "", None
        if session:
            with contextlib.suppress(InputError):
                self.store.end(session)
        if image is not None:
            image.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Release clients that are dead or have done nothing for a lease."""
        now = time.monotonic()
        with self._lock:
            over = [
                token
                for token, lease in self._leases.items()
                if now - lease.seen > LIVENESS_S or now - lease.active > self.store.settings.lease_s
            ]
        for token in over:
            self.release(token)

    def _class_of(self, label: str) -> int:
        names = self.store.segmenter.class_names
        for class_id, name in names.items():
            if label in (name, str(class_id)):
                return class_id
        raise InputError(f"no such class {label!r}; the model knows {', '.join(names.values())}")


def _leases(request: Request) -> Leases:
    leases: Leases = request.app.state.nninteractive
    return leases


def _lease(request: Request) -> Lease:
    lease = _leases(request).get(request.headers.get("x-lease-token", ""))
    lease.seen = time.monotonic()
    return lease


def _active(request: Request) -> Lease:
    lease = _lease(request)
    lease.active = lease.seen
    return lease


AnyLease = Annotated[Lease, Depends(_lease)]
ActiveLease = Annotated[Lease, Depends(_active)]
router = APIRouter(include_in_schema=False)


@router.get("/healthz")
def healthz() -> dict[str, bool]:
    """Whether the server answers."""
    return {"ok": True}


@router.get("/capabilities")
def capabilities() -> dict[str, Any]:
    """What prompts may be."""
    return CAPABILITIES


@router.post("/claim")
def claim(request: Request, store: AStore) -> dict[str, Any]:
    """A lease, whose token every other request carries."""
    label, codes = request.path_params.get("label"), request.path_params.get("axes", SIMPLEITK)
    return {
        "lease_token": _leases(request).claim(label, codes).token,
        "idle_timeout_seconds": store.settings.lease_s,
        "liveness_timeout_seconds": LIVENESS_S,
        "max_sessions": store.settings.max_sessions,
    }


@router.post("/release")
def release(request: Request) -> dict[str, bool]:
    """Give the lease back; also one that is over."""
    _leases(request).release(request.headers.get("x-lease-token", ""))
    return {"released": True}


@router.post("/heartbeat")
def heartbeat(lease: AnyLease, store: AStore) -> dict[str, float]:
    """The client lives; being idle ends all the same."""
    return {"remaining_seconds": _remaining(lease, store)}


@router.get("/lease_status")
def lease_status(lease: AnyLease, store: AStore) -> dict[str, float]:
    """Seconds until an idle client is let go."""
    return {"remaining_seconds": _remaining(lease, store), "idle_timeout_seconds": store.settings.lease_s}


@router.post("/set_image")
async def set_image(request: Request, lease: ActiveLease) -> dict[str, list[int]]:
    """An image (C, x, y, z); answered when it has been encoded and segmented."""
    properties, body = _meta(request).get("image_properties") or {}, await request.body()
    return await lease.line.run(lambda seconds: _open(_leases(request), lease, body, properties, seconds))


class Buffer(BaseModel):
    """The client's own array of the object."""

    shape: tuple[Annotated[int, Field(gt=0)], ...]
    dtype: str


@router.post("/set_target_buffer")
async def set_target_buffer(lease: ActiveLease, buffer: Buffer) -> dict[str, Any]:
    """A client that begins with an empty array gets all of the object at its next prompt."""

    def taken(_: float) -> dict[str, Any]:
        if buffer.shape != lease.shown.shape:
            raise HTTPException(400, f"target buffer {buffer.shape} must have the image's shape {lease.shown.shape}")
        lease.shown = np.zeros_like(lease.shown)
        return {}

    return await lease.line.run(taken)


@router.post("/set_do_autozoom")
def set_do_autozoom(lease: ActiveLease) -> dict[str, Any]:
    """Slices are seen whole: there is nothing to zoom."""
    return {}


@router.post("/reset_interactions")
async def reset_interactions(lease: ActiveLease) -> dict[str, Any]:
    """The next prompt begins a new object."""

    def begun(_: float) -> dict[str, Any]:
        if lease.session:
            lease.held().ask(Step(op="reset"))
        lease.reset()
        return {}

    return await lease.line.run(begun)


@router.post("/undo")
async def undo(lease: ActiveLease) -> Response:
    """Take the last interaction back."""

    def undone(seconds: float) -> Response:
        if not lease.session or not lease.taken:
            return _reply(None, False)
        lease.held().ask(Step(op="undo"))
        lease.taken -= 1
        return lease.change(seconds)

    return await lease.line.run(undone)


@router.post("/predict")
async def predict(lease: ActiveLease) -> Response:
    """What the interactions so far give."""
    return await lease.line.run(lease.change)


class PointInteraction(BaseModel):
    """A click."""

    coordinates: Voxel
    include_interaction: bool
    run_prediction: bool = True


@router.post("/add_point_interaction")
async def add_point(lease: ActiveLease, asked: PointInteraction) -> Response:
    """This voxel is, or is not, of the object."""

    def point(class_id: int) -> Entry:
        return Point(class_id=class_id, positive=asked.include_interaction, voxel=asked.coordinates)

    return await lease.line.run(
        lambda seconds: lease.interact(point, lambda: [asked.coordinates], asked.run_prediction, seconds)
    )


class BoxInteraction(BaseModel):
    """A half-open box."""

    bbox_coords: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    include_interaction: bool
    run_prediction: bool = True


@router.post("/add_bbox_interaction")
async def add_box(lease: ActiveLease, asked: BoxInteraction) -> Response:
    """All of the object on the slices of the box lies in it, or nothing of it does."""
    start, stop = zip(*((min(a, b), max(a, b)) for a, b in asked.bbox_coords), strict=True)

    def box(class_id: int) -> Entry:
        return Box(class_id=class_id, positive=asked.include_interaction, start=start, stop=stop)

    def middle() -> npt.ArrayLike:
        return [[(a + b) // 2 for a, b in zip(start, stop, strict=True)]]

    return await lease.line.run(lambda seconds: lease.interact(box, middle, asked.run_prediction, seconds))


@router.post("/add_scribble_interaction")
@router.post("/add_lasso_interaction")
async def add_mask(request: Request, store: AStore, lease: ActiveLease) -> Response:
    """Voxels above 0 are, or are not, of the object."""
    meta, body, scribble = _meta(request), await request.body(), request.url.path.endswith("scribble_interaction")
    return await lease.line.run(lambda seconds: _mask(store, lease, body, meta, scribble, seconds))


@router.post("/add_initial_seg_interaction")
def add_initial_seg(lease: ActiveLease) -> Response:
    """Not supported, as the capabilities say: the automatic result is where every object begins."""
    raise HTTPException(400, "initial segmentations are not supported; objects begin with the automatic result")


def _open(
    leases: Leases, lease: Lease, body: bytes, properties: dict[str, Any], seconds: float
) -> dict[str, list[int]]:
    store = leases.store
    image = unpack(body, 4, store.settings.max_voxels * len(store.segmenter.plan.channels))
    i, j, k = image.shape[1:]
    volume = Volume(image.astype(np.float32), _geometry((i, j, k), properties.get("spacing"), lease.codes))
    leases.end(lease)
    held = store.open_sent(volume)
    lease.begin(held.name, held.path, (i, j, k))
    held.wait(seconds)
    lease.active = time.monotonic()
    return {"original_image_shape": list(image.shape)}


def _geometry(shape: Voxel, spacing: Any, codes: str) -> Geometry:
    """A grid with the client's spacing (mm), its axes along those of the world that the letters name."""
    try:
        sizes = [float(s) for s in (spacing or (1, 1, 1))]
    except (TypeError, ValueError):
        sizes = []
    if len(sizes) != 3 or not all(0 < size < 1e4 for size in sizes):
        raise InputError("image_properties: spacing has to be three sizes in mm")
    affine = np.eye(4)
    for axis, (letter, size) in enumerate(zip(codes, sizes, strict=True)):
        affine[:3, axis] = 0
        affine["RASLPI".index(letter) % 3, axis] = size if letter in "RAS" else -size
    return Geometry(shape, affine)


def _mask(
    store: SessionStore, lease: Lease, body: bytes, meta: dict[str, Any], scribble: bool, seconds: float
) -> Response:
    crop = unpack(body, 3, store.settings.max_voxels) != 0
    try:
        positive, box = bool(meta["include_interaction"]), meta.get("interaction_bbox")
        start = np.array([int(low) for low, _ in box] if box else [0, 0, 0])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("include_interaction and interaction_bbox have to come in X-Meta") from error
    inside = voxels_of(crop, start)

    def entry(class_id: int) -> Entry:
        return entry_of(inside, lease.shown.shape, class_id, positive, scribble)

    return lease.interact(entry, lambda: inside, bool(meta.get("run_prediction", True)), seconds)


def _meta(request: Request) -> dict[str, Any]:
    try:
        found = parse_json(request.headers.get("x-meta", "{}"))
        if isinstance(found, dict):
            return found
    except ValueError:
        pass
    raise InputError("X-Meta is no JSON object")


def _remaining(lease: Lease, store: SessionStore) -> float:
    return max(0.0, store.settings.lease_s - (time.monotonic() - lease.active))


def _reply(box: Region | None, ran: bool, labels: npt.NDArray[np.bool_] | None = None) -> Response:
    meta: dict[str, Any] = {"ran_prediction": ran, "bbox": None}
    if box is not None and labels is not None:
        meta |= {"bbox": [[s.start, s.stop] for s in box], "dtype": "uint8", "shape": list(labels.shape)}
    body = b"" if labels is None else pack(labels.astype(np.uint8))
    return Response(body, media_type="application/octet-stream", headers={"x-meta": json.dumps(meta)})
