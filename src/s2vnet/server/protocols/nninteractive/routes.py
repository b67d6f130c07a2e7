"""Routes of nnInteractive's protocol."""

from __future__ import annotations

import time
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, HTTPException, Request, Response

from s2vnet.prompts import Box, Point
from s2vnet.server.api import StoreDep
from s2vnet.server.client_watch import ClientWatch
from s2vnet.server.protocols.array_codec import unpack
from s2vnet.server.protocols.drawings import drawing_prompt
from s2vnet.server.protocols.nninteractive.array_geometry import parse_properties
from s2vnet.server.protocols.nninteractive.forms import (
    BoxInteraction,
    Buffer,
    ImageForm,
    InitialSegmentation,
    MaskInteraction,
    PointInteraction,
    read_meta,
)
from s2vnet.server.protocols.nninteractive.lease import LIVENESS_S, Lease, LeasedClients

CAPABILITIES = {
    "supported_interactions": dict.fromkeys(("points", "bbox2d", "bbox3d", "scribble", "lasso"), True),
    "channel_mapping": {},
    "num_interaction_channels": 0,
    "supports_initial_label": True,
    "supports_zero_shot_label_refinement": False,
    "preferred_scribble_thickness": [1, 1, 1],
    "interaction_decay": None,
    "patch_size": None,
    "do_autozoom": False,
    "inference_session_version": 2,
    "license": None,
    "supports_undo": True,
}
"""Clients index the thickness, in voxels, by the axis across which they show slices."""


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


WatchDep = Annotated[ClientWatch, Depends(ClientWatch)]
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
    label, codes = request.path_params.get("label"), request.path_params.get("axes")
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
async def set_image(request: Request, lease: ActiveLeaseDep) -> dict[str, list[int]]:
    """Receive an image (C, x, y, z); it is encoded and segmented after the response."""
    properties = parse_properties(read_meta(request, ImageForm).image_properties)
    body = await request.body()
    return await lease.queue.run(lambda _: lease.set_image(body, properties))


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
async def undo(lease: ActiveLeaseDep, client: WatchDep) -> Response:
    """Undo the last interaction."""
    return await lease.queue.run(lambda seconds: lease.undo(seconds, client), client)


@router.post("/predict")
async def predict(lease: ActiveLeaseDep, client: WatchDep) -> Response:
    """Return the change of the object after all interactions so far."""
    return await lease.queue.run(lambda seconds: lease.change(seconds, client), client)


@router.post("/add_point_interaction")
async def add_point(lease: ActiveLeaseDep, client: WatchDep, interaction: PointInteraction) -> Response:
    """Add a point inside or outside the object."""

    def add(seconds: float) -> Response:
        lease.worker()
        voxel = interaction.voxel(lease.shape)
        point = Point(class_id=lease.class_id, positive=interaction.include_interaction, voxel=voxel)
        return lease.interact(point, interaction.run_prediction, seconds, client)

    return await lease.queue.run(add, client)


@router.post("/add_bbox_interaction")
async def add_box(lease: ActiveLeaseDep, client: WatchDep, interaction: BoxInteraction) -> Response:
    """Add a box that contains all of the object on its slices, or none of it."""

    def add(seconds: float) -> Response:
        lease.worker()
        start, stop = interaction.corners(lease.shape)
        box = Box(class_id=lease.class_id, positive=interaction.include_interaction, start=start, stop=stop)
        return lease.interact(box, interaction.run_prediction, seconds, client)

    return await lease.queue.run(add, client)


@router.post("/add_scribble_interaction")
@router.post("/add_lasso_interaction")
async def add_mask(request: Request, store: StoreDep, lease: ActiveLeaseDep) -> Response:
    """Add voxels that are not 0, inside or outside the object."""
    interaction, scribble = read_meta(request, MaskInteraction), request.url.path.endswith("scribble_interaction")
    body, client = await request.body(), ClientWatch(request)

    def add(seconds: float) -> Response:
        lease.worker()
        voxels = interaction.voxels(unpack(body, 3, store.settings.max_voxels) != 0, lease.shape)
        drawing = drawing_prompt(voxels, lease.shape, lease.class_id, interaction.include_interaction, scribble)
        return lease.interact(drawing, interaction.run_prediction, seconds, client)

    return await lease.queue.run(add, client)


@router.post("/add_initial_seg_interaction")
async def add_initial_seg(request: Request, store: StoreDep, lease: ActiveLeaseDep) -> Response:
    """Begin with a segmentation of the client, which later prompts correct."""
    interaction, body = read_meta(request, InitialSegmentation), await request.body()
    client = ClientWatch(request)

    def begin(seconds: float) -> Response:
        labels = unpack(body, 3, store.settings.max_voxels) != 0
        return lease.initialize(labels, interaction.run_prediction, seconds, client)

    return await lease.queue.run(begin, client)
