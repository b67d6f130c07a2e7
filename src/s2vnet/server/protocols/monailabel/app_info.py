"""Routes that describe the server: classes, models, trainers and strategies."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, HTTPException
from fastapi.responses import Response

from s2vnet._version import __version__
from s2vnet.server.api import StoreDep
from s2vnet.server.protocols.monailabel.datastore import STRATEGIES, datastore_statistics
from s2vnet.server.protocols.monailabel.service import AUTOMATIC, CLICKS, TRAINER, ServiceDep

router = APIRouter()


@router.get("/info/")
def info(store: StoreDep, service: ServiceDep) -> dict[str, Any]:
    """Return labels, models, trainers and strategies, without a top-level `config`, which 3D Slicer rejects."""
    labels = {name: value for value, name in store.segmenter.class_names.items()}
    common = {"dimension": 3, "labels": labels, "config": {}, "version": __version__}
    return {
        "name": "s2vnet",
        "description": "S2VNet: all classes at once, automatic and by clicks",
        "version": __version__,
        "labels": list(labels),
        "models": {
            AUTOMATIC: {"type": "segmentation", "description": "all classes", **common},
            CLICKS: {"type": "deepedit", "description": "all classes, corrected by clicks", **common},
        },
        "trainers": {TRAINER: {"description": "all classes, from this model on", "config": service.trainer.settings}},
        "strategies": {name: {"description": text} for name, text in STRATEGIES.items()},
        "scoring": {},
        "train_stats": {TRAINER: statistics} if (statistics := service.trainer.statistics()) else {},
        "datastore": datastore_statistics(service),
    }


@router.get("/model/info/{model}")
def model_info(store: StoreDep, model: Literal["automatic", "clicks"]) -> dict[str, Any]:
    """Return name and hash of the weights that a model uses."""
    return {"name": model, "sha256": store.segmenter.sha256, "version": __version__}


@router.get("/auth/")
def auth() -> Response:
    """Report that there are no users and roles."""
    raise HTTPException(404, "no users; where a token is needed it comes as Authorization: Bearer")
