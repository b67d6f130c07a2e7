"""Routes that describe the server: classes, models, trainers and strategies."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from s2vnet._version import __version__
from s2vnet.server.protocols.monailabel.active_learning import STRATEGIES
from s2vnet.server.protocols.monailabel.batch import SCORING_METHODS
from s2vnet.server.protocols.monailabel.datastore import datastore_statistics
from s2vnet.server.protocols.monailabel.service import CLICKS, KINDS, ServiceDep

router = APIRouter()


@router.get("/info/")
def info(service: ServiceDep) -> dict[str, Any]:
    """Return labels, models, trainers and strategies, without a top-level `config`, which 3D Slicer rejects.

    The background is the last of the labels: 3D Slicer creates a segment for each label in this order and numbers the
    exported ones, without the background, from 1.
    """
    models = service.store.models
    foreground = {model: {name: value for value, name in model.classes.items() if value} for model in models}
    labels = {model: {**foreground[model], model.classes[0]: 0} for model in models}
    names = [*dict.fromkeys(name for model in models for name in foreground[model])]
    return {
        "name": "s2vnet",
        "description": "S2VNet: all classes at once, automatic and by clicks",
        "version": __version__,
        "labels": [*names, *dict.fromkeys(model.classes[0] for model in models)],
        "models": {
            name: {"type": KINDS[kind][0], "dimension": 3, "description": KINDS[kind][1], "config": {}}
            | {"version": __version__, "labels": labels[model] if kind == CLICKS else foreground[model]}
            for name, (model, kind) in service.models.items()
        },
        "trainers": {
            name: {"description": "all classes, from this model on", "config": service.trainer.settings}
            for name in service.trainers
        },
        "strategies": {name: {"description": text, "config": {}} for name, text in STRATEGIES.items()},
        "scoring": {name: {"description": text, "config": {}} for name, text in SCORING_METHODS.items()},
        "train_stats": {service.latest_trainer(): statistics} if (statistics := service.trainer.statistics()) else {},
        "datastore": datastore_statistics(service),
    }


@router.get("/model/info/{model}")
def model_info(service: ServiceDep, model: str) -> dict[str, Any]:
    """Return name and hash of the weights that a model uses."""
    sha256 = service.named(model).model.sha256
    return {
        "name": model,
        "sha256": sha256,
        "checksum": f"SHA256:{sha256}",
        "version": __version__,
    }
