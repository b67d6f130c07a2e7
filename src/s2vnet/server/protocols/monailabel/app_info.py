"""Routes that describe the server: classes, models, trainers and strategies."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from s2vnet._version import __version__
from s2vnet.server.api import StoreDep
from s2vnet.server.protocols.monailabel.active_learning import STRATEGIES
from s2vnet.server.protocols.monailabel.batch import SCORING_METHODS
from s2vnet.server.protocols.monailabel.datastore import datastore_statistics
from s2vnet.server.protocols.monailabel.service import CLICKS, MODELS, TRAINER, ServiceDep, require_model

router = APIRouter()


@router.get("/info/")
def info(store: StoreDep, service: ServiceDep) -> dict[str, Any]:
    """Return labels, models, trainers and strategies, without a top-level `config`, which 3D Slicer rejects.

    The background is the last of the labels: 3D Slicer creates a segment for each label in this order and numbers the
    exported ones, without the background, from 1.
    """
    classes = store.segmenter.class_names
    foreground = {name: value for value, name in classes.items() if value}
    labels = {**foreground, classes[0]: 0}
    return {
        "name": "s2vnet",
        "description": "S2VNet: all classes at once, automatic and by clicks",
        "version": __version__,
        "labels": list(labels),
        "models": {
            name: {"type": kind, "dimension": 3, "description": text, "config": {}, "version": __version__}
            | {"labels": labels if name == CLICKS else foreground}
            for name, (kind, text) in MODELS.items()
        },
        "trainers": {TRAINER: {"description": "all classes, from this model on", "config": service.trainer.settings}},
        "strategies": {name: {"description": text, "config": {}} for name, text in STRATEGIES.items()},
        "scoring": {name: {"description": text, "config": {}} for name, text in SCORING_METHODS.items()},
        "train_stats": {TRAINER: statistics} if (statistics := service.trainer.statistics()) else {},
        "datastore": datastore_statistics(service),
    }


@router.get("/model/info/{model}")
def model_info(store: StoreDep, model: str) -> dict[str, Any]:
    """Return name and hash of the weights that a model uses."""
    require_model(model)
    return {
        "name": model,
        "sha256": store.segmenter.sha256,
        "checksum": f"SHA256:{store.segmenter.sha256}",
        "version": __version__,
    }
