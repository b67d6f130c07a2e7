"""Routes that segment many images, and that compare labels, in the background."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from fastapi import APIRouter

from s2vnet.errors import InputError, NotFoundError
from s2vnet.io.files import read_labels
from s2vnet.metrics.overlap_and_distance import dice
from s2vnet.server.protocols.monailabel.background import segment_in_background
from s2vnet.server.protocols.monailabel.saved_labels import FINAL, ORIGINAL
from s2vnet.server.protocols.monailabel.service import AUTOMATIC, MODEL_KEY, MonaiLabel, ServiceDep

DICE = "dice"
SCORING_METHODS = {DICE: "mean Dice of the classes in an image's original and final label"}
router = APIRouter()


@router.get("/batch/infer")
def batch_status(service: ServiceDep, all: bool = False, check_if_running: bool = False) -> Any:
    """Return the last job, or all of them; 404 if there is none."""
    return service.batch_jobs.status(all, check_if_running)


@router.post("/batch/infer/{model}")
def start_batch(
    service: ServiceDep,
    model: str,
    images: Literal["all", "labeled", "unlabeled"] = "all",
    params: dict[str, Any] | None = None,
    run_sync: bool = False,
) -> dict[str, Any]:
    """Segment images and save the results under a tag (`label_tag`), which is not that of submitted labels."""
    served, kind = service.named(model)
    if kind != AUTOMATIC:
        automatic = next(name for name, each in service.models.items() if each == (served, AUTOMATIC))
        raise InputError(f"the model {model} needs prompts; the model {automatic} segments many images")
    options = params or {}
    tag = options.get("label_tag") or ORIGINAL
    if tag == FINAL:
        raise InputError(f"labels that were submitted ({FINAL}) are not replaced; choose another label_tag")
    if options.get("save_label", True) is False:
        raise InputError("without saved labels (save_label) there is no result")
    limit = options.get("max_batch_size") or None
    if not isinstance(tag, str) or not isinstance(limit, int | None):
        raise InputError("label_tag is a text and max_batch_size a number")
    known = {image: FINAL in service.labels.tags(image) for image in service.images.all()}
    chosen = [image for image, final in known.items() if images == "all" or final == (images == "labeled")]
    if chosen:
        service.labels.path(tag, chosen[0])  # refuses an unusable tag now

    def work(image: str) -> str:
        labels = segment_in_background(service.store, served, image, service.batch_jobs.require_unstopped)
        names = {name: value for value, name in served.classes.items()}
        info = {"params": {"label_names": names}, "model": model, MODEL_KEY: served.name}
        service.labels.save(tag, image, labels, info)
        return tag

    return service.batch_jobs.start({"model": model, "images": images, **options}, chosen[:limit], work, run_sync)


@router.delete("/batch/infer")
def stop_batch(service: ServiceDep) -> dict[str, Any] | None:
    """Stop the job after its current slice; labels that it has saved stay."""
    return service.batch_jobs.stop()


@router.get("/scoring/")
def scoring_status(service: ServiceDep, all: bool = False, check_if_running: bool = False) -> Any:
    """Return the last job, or all of them; 404 if there is none."""
    return service.scoring_jobs.status(all, check_if_running)


@router.post("/scoring/{method}")
def start_scoring(
    service: ServiceDep, method: str, params: dict[str, Any] | None = None, run_sync: bool = False
) -> dict[str, Any]:
    """Score images; each score becomes a fact about its image."""
    if method not in SCORING_METHODS:
        raise NotFoundError(f"no such method: {method[:64]!r}; choose one of {', '.join(SCORING_METHODS)}")

    def work(image: str) -> float | None:
        score = _dice(service, image)
        if score is not None:
            service.labels.update_image_info(image, {method: score})
        return score

    return service.scoring_jobs.start({"method": method, **(params or {})}, service.images.all(), work, run_sync)


@router.post("/scoring/")
def start_all_scoring(
    service: ServiceDep, params: dict[str, Any] | None = None, run_sync: bool = False
) -> dict[str, Any]:
    """Score by all methods."""
    own = (params or {}).get(DICE)
    return {
        DICE: {"result": start_scoring(service, DICE, own if isinstance(own, dict) else {}, run_sync), "detail": None}
    }


@router.delete("/scoring/")
def stop_scoring(service: ServiceDep) -> dict[str, Any] | None:
    """Stop the job after its current image."""
    return service.scoring_jobs.stop()


def _dice(service: MonaiLabel, image: str) -> float | None:
    """Mean Dice of the classes in an image's original and final label; None without both."""
    if not {FINAL, ORIGINAL} <= set(service.labels.tags(image)):
        return None
    if service.label_model(ORIGINAL, image) != service.label_model(FINAL, image):
        raise InputError("the original and the final label have classes of different models")
    predicted, truth = (read_labels(service.labels.path(tag, image)).data for tag in (ORIGINAL, FINAL))
    if predicted.shape != truth.shape:
        raise InputError("the original and the final label are of different images")
    classes = [c for c in np.union1d(np.unique(predicted), np.unique(truth)).tolist() if c]
    return float(np.mean([dice(predicted == c, truth == c) for c in classes])) if classes else 1.0
