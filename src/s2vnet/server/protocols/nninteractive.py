"""nnInteractive's server protocol, so that its clients connect unchanged (https://github.com/MIC-DKFZ/nnInteractive).

Its clients segment one object at a time and have no classes, so each sees one class at a time: the one in the address,
``/nninteractive/liver``, or with ``/nninteractive`` the class at the first prompt, or the most probable one
there. Its arrays have no orientation; axes are those of SimpleITK's arrays (to superior, posterior, left) unless the
address ends in other axis codes: ``/nninteractive/liver/RAS``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Depends, HTTPException, Request, Response
from pydantic import BaseModel, Field

from s2vnet.errors import InputError
from s2vnet.io.geometry import Geometry, Region, Volume
from s2vnet.prompts import Box, Entry, Point, Voxel
from s2vnet.server.api import StoreDep
from s2vnet.server.protocols.array_codec import pack, unpack
from s2vnet.server.protocols.drawings import drawing_prompt, drawn_voxels
from s2vnet.server.protocols.one_object_client import ObjectClient, ObjectClients
from s2vnet.server.schemas import Add, Step
from s2vnet.server.session_store import SessionStore
from s2vnet.utils.components import bounding_box
from s2vnet.utils.json_io import parse_json

LIVENESS_S = 60.0
"""Seconds without a heartbeat after which a client expires."""
SIMPLEITK_AXES = "SPL"
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


class Lease(ObjectClient):
    """A client with its lease token, and the object as it was last sent to the client."""

    upload_route = "set_image"

    def __init__(self, store: SessionStore, class_id: int | None, codes: str) -> None:
        """Args: as :class:`ObjectClient`, and the axis codes of its arrays."""
        super().__init__(store, class_id)
        self.codes = codes
        self.last_seen = self.last_active
        """Monotonic time of the last request or heartbeat, seconds."""
        self.interactions = 0
        """Number of interactions since the last reset; all of them can be undone."""
        self.shown: npt.NDArray[np.bool_] = np.zeros(self.shape, bool)
        """The object (I, J, K) as it was last sent."""

    def reset(self) -> None:
        """Begin a new object on the same image."""
        super().reset()
        self.interactions, self.shown = 0, np.zeros(self.shape, bool)

    def interact(
        self, make: Callable[[int], Entry], voxels: Callable[[], npt.ArrayLike], predict: bool, seconds: float
    ) -> Response:
        """Add a prompt.

        Args:
            make: returns the prompt for a class.
            voxels: returns the prompt's voxels (N, 3), by which the first prompt chooses the class.
            predict: whether to respond with the change of the object.
            seconds: time limit.
        """
        worker = self.worker()
        self.class_id = self.choose_class(worker, voxels, seconds)
        worker.apply(Add(entries=(make(self.class_id),)))
        self.interactions += 1
        return self.change(seconds) if predict else _response(None, False)

    def undo(self, seconds: float) -> Response:
        """Undo the last interaction."""
        if not self.session or not self.interactions:
            return _response(None, False)
        self.worker().apply(Step(op="undo"))
        self.interactions -= 1
        return self.change(seconds)

    def change(self, seconds: float) -> Response:
        """Respond with the change of the object since it was last sent."""
        worker = self.worker()
        try:
            any_left = self.interactions > 0
            mask = worker.wait_ready(seconds).labels == self.class_id if any_left else np.zeros_like(self.shown)
        except InputError:  # rejected prompts cannot be undone
            self.interactions = len(worker.state().entries)
            raise
        self.last_active = time.monotonic()
        box = bounding_box(mask != self.shown)
        self.shown = mask
        return _response(box, True, None if box is None else mask[box])

    def remaining_s(self) -> float:
        """Return the seconds until the lease ends without further activity."""
        return max(0.0, self._store.settings.lease_s - (time.monotonic() - self.last_active))


class LeasedClients(ObjectClients[Lease]):
    """All clients of this protocol. They expire without heartbeats, and when they are idle for the time of a lease."""

    def claim(self, label: str | None, codes: str) -> Lease:
        """Add a client. Raises CapacityError when there are too many, InputError for an unknown class or axis codes."""
        class_id = None if label in (None, "any") else self._class_of(str(label))
        if sorted("RASLPI".index(c) % 3 for c in codes if c in "RASLPI") != [0, 1, 2] or len(codes) != 3:
            raise InputError(f"no such axes {codes!r}; three of R/L, A/P and S/I say where they point")
        return self.add(Lease(self.store, class_id, codes))

    def get(self, token: str) -> Lease:
        """Return the lease of a token. Raises HTTPException 410 when it is unknown or has expired."""
        with self._lock:
            expired = self._expired(time.monotonic())
        for lease in expired:
            self.remove(lease.name)
        with self._lock:
            if token not in self._clients:
                raise HTTPException(410, "lease expired or unknown; connect again")
            return self._clients[token]

    def _expired(self, now: float) -> list[Lease]:
        lease_s = self.store.settings.lease_s
        clients = self._clients.values()
        return [c for c in clients if now - c.last_seen > LIVENESS_S or now - c.last_active > lease_s]

    def _class_of(self, label: str) -> int:
        names = self.store.segmenter.class_names
        for class_id, name in names.items():
            if label in (name, str(class_id)):
                return class_id
        raise InputError(f"no such class {label!r}; the model knows {', '.join(names.values())}")


def _clients(request: Request) -> LeasedClients:
    clients: LeasedClients = request.app.state.nninteractive
    return clients


def _lease(request: Request) -> Lease:
    lease = _clients(request).get(request.headers.get("x-lease-token", ""))
    lease.last_seen = time.monotonic()
    return lease


def _active_lease(request: Request) -> Lease:
    lease = _lease(request)
    lease.last_active = lease.last_seen
    return lease


LeaseDep = Annotated[Lease, Depends(_lease)]
ActiveLeaseDep = Annotated[Lease, Depends(_active_lease)]
router = APIRouter(include_in_schema=False)


@router.get("/healthz")
def healthz() -> dict[str, bool]:
    """Report that the server runs."""
    return {"ok": True}


@router.get("/capabilities")
def capabilities() -> dict[str, Any]:
    """Return the supported kinds of prompts."""
    return CAPABILITIES


@router.post("/claim")
def claim(request: Request, store: StoreDep) -> dict[str, Any]:
    """Grant a lease, whose token is required in all other requests."""
    label, codes = request.path_params.get("label"), request.path_params.get("axes", SIMPLEITK_AXES)
    return {
        "lease_token": _clients(request).claim(label, codes).name,
        "idle_timeout_seconds": store.settings.lease_s,
        "liveness_timeout_seconds": LIVENESS_S,
        "max_sessions": store.settings.max_sessions,
    }


@router.post("/release")
def release(request: Request) -> dict[str, bool]:
    """End a lease; also one that has expired."""
    _clients(request).remove(request.headers.get("x-lease-token", ""))
    return {"released": True}


@router.post("/heartbeat")
def heartbeat(lease: LeaseDep) -> dict[str, float]:
    """Keep the lease of a running client, at most until its idle timeout."""
    return {"remaining_seconds": lease.remaining_s()}


@router.get("/lease_status")
def lease_status(lease: LeaseDep, store: StoreDep) -> dict[str, float]:
    """Return the seconds until the lease ends without further activity."""
    return {"remaining_seconds": lease.remaining_s(), "idle_timeout_seconds": store.settings.lease_s}


@router.post("/set_image")
async def set_image(request: Request, store: StoreDep, lease: ActiveLeaseDep) -> dict[str, list[int]]:
    """Receive an image (C, x, y, z); the response is sent when it is encoded and segmented."""
    properties, body = _meta(request).get("image_properties") or {}, await request.body()
    return await lease.queue.run(lambda seconds: _open(store, lease, body, properties, seconds))


class Buffer(BaseModel):
    """The client's array for the object."""

    shape: tuple[Annotated[int, Field(gt=0)], ...]
    dtype: str


@router.post("/set_target_buffer")
async def set_target_buffer(lease: ActiveLeaseDep, buffer: Buffer) -> dict[str, Any]:
    """Register an empty array on the client's side; the next prediction sends the whole object."""

    def clear(_: float) -> dict[str, Any]:
        if buffer.shape != lease.shown.shape:
            raise HTTPException(400, f"target buffer {buffer.shape} must have the image's shape {lease.shown.shape}")
        lease.shown = np.zeros_like(lease.shown)
        return {}

    return await lease.queue.run(clear)


@router.post("/set_do_autozoom")
def set_do_autozoom(lease: ActiveLeaseDep) -> dict[str, Any]:
    """Accept and ignore the setting: the network always processes whole slices."""
    return {}


@router.post("/reset_interactions")
async def reset_interactions(lease: ActiveLeaseDep) -> dict[str, Any]:
    """Remove all prompts; the next one begins a new object."""
    await lease.queue.run(lambda _: lease.reset_prompts())
    return {}


@router.post("/undo")
async def undo(lease: ActiveLeaseDep) -> Response:
    """Undo the last interaction."""
    return await lease.queue.run(lease.undo)


@router.post("/predict")
async def predict(lease: ActiveLeaseDep) -> Response:
    """Return the change of the object after all interactions so far."""
    return await lease.queue.run(lease.change)


class PointInteraction(BaseModel):
    """A click."""

    coordinates: Voxel
    include_interaction: bool
    run_prediction: bool = True


@router.post("/add_point_interaction")
async def add_point(lease: ActiveLeaseDep, interaction: PointInteraction) -> Response:
    """Add a point inside or outside the object."""

    def point(class_id: int) -> Entry:
        return Point(class_id=class_id, positive=interaction.include_interaction, voxel=interaction.coordinates)

    return await lease.queue.run(
        lambda seconds: lease.interact(point, lambda: [interaction.coordinates], interaction.run_prediction, seconds)
    )


class BoxInteraction(BaseModel):
    """A half-open box."""

    bbox_coords: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    include_interaction: bool
    run_prediction: bool = True


@router.post("/add_bbox_interaction")
async def add_box(lease: ActiveLeaseDep, interaction: BoxInteraction) -> Response:
    """Add a box that contains all of the object on its slices, or none of it."""
    start, stop = zip(*((min(a, b), max(a, b)) for a, b in interaction.bbox_coords), strict=True)

    def box(class_id: int) -> Entry:
        return Box(class_id=class_id, positive=interaction.include_interaction, start=start, stop=stop)

    def centre() -> npt.ArrayLike:
        return [[(a + b) // 2 for a, b in zip(start, stop, strict=True)]]

    return await lease.queue.run(lambda seconds: lease.interact(box, centre, interaction.run_prediction, seconds))


@router.post("/add_scribble_interaction")
@router.post("/add_lasso_interaction")
async def add_mask(request: Request, store: StoreDep, lease: ActiveLeaseDep) -> Response:
    """Add voxels above 0, inside or outside the object."""
    meta, body, scribble = _meta(request), await request.body(), request.url.path.endswith("scribble_interaction")
    return await lease.queue.run(lambda seconds: _interact_mask(store, lease, body, meta, scribble, seconds))


@router.post("/add_initial_seg_interaction")
def add_initial_seg(lease: ActiveLeaseDep) -> Response:
    """Refuse initial segmentations, which are not among the capabilities: objects begin with the automatic result."""
    raise HTTPException(400, "initial segmentations are not supported; objects begin with the automatic result")


def _open(
    store: SessionStore, lease: Lease, body: bytes, properties: dict[str, Any], seconds: float
) -> dict[str, list[int]]:
    image = unpack(body, 4, store.settings.max_voxels * len(store.segmenter.plan.channels))
    i, j, k = image.shape[1:]
    volume = Volume(image.astype(np.float32), _geometry((i, j, k), properties.get("spacing"), lease.codes))
    lease.open(volume, seconds)
    lease.last_active = time.monotonic()
    return {"original_image_shape": list(image.shape)}


def _geometry(shape: Voxel, spacing: Any, codes: str) -> Geometry:
    """Build a grid of a shape (I, J, K) from spacing (mm) and axis codes.

    Raises:
        InputError: invalid spacing.
    """
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


def _interact_mask(
    store: SessionStore, lease: Lease, body: bytes, meta: dict[str, Any], scribble: bool, seconds: float
) -> Response:
    crop = unpack(body, 3, store.settings.max_voxels) != 0
    try:
        positive, box = bool(meta["include_interaction"]), meta.get("interaction_bbox")
        start = np.array([int(low) for low, _ in box] if box else [0, 0, 0])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("include_interaction and interaction_bbox have to come in X-Meta") from error
    voxels = drawn_voxels(crop, start)

    def entry(class_id: int) -> Entry:
        return drawing_prompt(voxels, lease.shown.shape, class_id, positive, scribble)

    return lease.interact(entry, lambda: voxels, bool(meta.get("run_prediction", True)), seconds)


def _meta(request: Request) -> dict[str, Any]:
    try:
        meta = parse_json(request.headers.get("x-meta", "{}"))
        if isinstance(meta, dict):
            return meta
    except ValueError:
        pass
    raise InputError("X-Meta is not a JSON object")


def _response(box: Region | None, predicted: bool, labels: npt.NDArray[np.bool_] | None = None) -> Response:
    meta: dict[str, Any] = {"ran_prediction": predicted, "bbox": None}
    if box is not None and labels is not None:
        meta |= {"bbox": [[s.start, s.stop] for s in box], "dtype": "uint8", "shape": list(labels.shape)}
    body = b"" if labels is None else pack(labels.astype(np.uint8))
    return Response(body, media_type="application/octet-stream", headers={"x-meta": json.dumps(meta)})
