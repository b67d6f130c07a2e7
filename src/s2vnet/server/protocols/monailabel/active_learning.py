"""Route that chooses the image to label next."""

from __future__ import annotations

import contextlib
import random
import time
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from s2vnet.errors import InputError
from s2vnet.server.protocols.monailabel.saved_labels import FINAL
from s2vnet.server.protocols.monailabel.service import MonaiLabel, ServiceDep

UNCERTAINTY = "uncertainty"
STRATEGIES = {
    "first": "first image without a final label",
    "random": "a random one of them",
    UNCERTAINTY: "the one of them with the highest uncertainty, of those scored so far",
}
router = APIRouter()


class SampleRequest(BaseModel):
    """Body of an active learning request; other fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    client_id: str | None = None


@router.post("/activelearning/{strategy}")
def next_sample(service: ServiceDep, strategy: str, request: SampleRequest | None = None) -> dict[str, Any]:
    """Return the image to label next; an empty object when all have a final label.

    `name` is different for every image, and `checksum` that of the download, because 3D Slicer caches files by name.
    """
    if strategy not in STRATEGIES:
        raise InputError(f"no strategy {strategy!r}; choose one of {', '.join(STRATEGIES)}")
    images = [image for image in service.images.all() if FINAL not in service.labels.tags(image)]
    if strategy == "random":
        random.shuffle(images)
    if strategy == UNCERTAINTY:
        scores = service.uncertainty.scores(images)
        images.sort(key=lambda image: -scores.get(image, -1.0))
    for image in images:
        with contextlib.suppress(InputError):  # a damaged series cannot be sent, so the next image is
            return _sample(service, strategy, image, None if request is None else request.client_id)
    return {}


def _sample(service: MonaiLabel, strategy: str, image: str, client_id: str | None) -> dict[str, Any]:
    """Describe a chosen image, and record the choice. Raises InputError for a damaged DICOM series."""
    now = int(time.time())
    sample = {
        **service.images.attributes(image),
        "id": service.images.public(image),
        "name": service.images.download_name(image),
        "path": "",
        "ts": now,
        "checksum": service.images.checksum(image),
    }
    known = service.labels.image_info(image).get("strategy")
    shown = {**(known if isinstance(known, dict) else {}), strategy: {"ts": now, "client_id": client_id}}
    service.labels.update_image_info(image, {"strategy": shown})
    return sample
