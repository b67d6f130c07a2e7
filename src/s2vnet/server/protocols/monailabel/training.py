"""Routes that start, stop and report training jobs."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, HTTPException
from fastapi.responses import PlainTextResponse, Response

from s2vnet.errors import InputError
from s2vnet.server.protocols.monailabel.service import MonaiLabel, ServiceDep
from s2vnet.server.training_jobs import ALREADY_RUNNING

router = APIRouter()


@router.get("/train/")
def train_status(service: ServiceDep, all: bool = False, check_if_running: bool = False) -> Any:
    """Return the last training job, or all of them; 404 if there is none, as clients expect."""
    latest = service.trainer.latest()
    if latest is None or (check_if_running and not service.trainer.running):
        raise HTTPException(404, "no training is running")
    return service.trainer.all() if all else latest


@router.post("/train/{model}")
def train_start(service: ServiceDep, model: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
    """Train on all scans with a final label, in the background, starting from a model."""
    served = service.trainers.get(model) or service.named(model).model
    if service.trainer.running:
        raise HTTPException(429, ALREADY_RUNNING)
    return service.trainer.start(params or {}, service.labelled_scans(served), served)


@router.post("/train/")
def train_start_all(service: ServiceDep, params: dict[str, Any] | None = None) -> dict[str, Any]:
    """Train the model whose trainer has parameters, else the first, with the parameters under the trainer's name."""
    name = _chosen_trainer(service, params or {})
    own_params = (params or {}).get(name, params or {})
    if not isinstance(own_params, dict):
        raise InputError(f"parameters of {name} are no JSON object")
    return {name: {"result": train_start(service, name, own_params), "detail": None}}


def _chosen_trainer(service: MonaiLabel, params: dict[str, Any]) -> str:
    return next((name for name in service.trainers if name in params), next(iter(service.trainers)))


@router.delete("/train/")
async def train_stop(service: ServiceDep) -> dict[str, Any] | None:
    """Stop the training after its current step; the same request resumes it from there."""
    return await service.training_queue.run(lambda _: service.trainer.stop())


@router.get("/logs/")
def logs(service: ServiceDep) -> Response:
    """Return the log of the last training; unlike the server's log, it contains no requests of other clients."""
    return PlainTextResponse(service.trainer.log())
