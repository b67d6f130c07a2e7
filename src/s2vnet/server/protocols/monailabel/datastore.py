"""Routes for scans, saved labels, and the choice of the scan to label next."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Form, UploadFile
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel, ConfigDict

from s2vnet.errors import InputError
from s2vnet.io.files import count_voxels, read_geometry, read_labels
from s2vnet.io.geometry import Geometry, LabelMap
from s2vnet.server.protocols.monailabel.service import LABEL_ENDING, TAGS, MonaiLabel, ServiceDep, parse_params

UNCERTAINTY = "uncertainty"
STRATEGIES = {
    "first": "first scan without a final label",
    "random": "a random one of them",
    UNCERTAINTY: "the one of them with the highest uncertainty, of those scored so far",
}
router = APIRouter()


@router.get("/datastore/")
def datastore(service: ServiceDep, output: Literal["stats", "all", "train"] = "stats") -> Any:
    """Return counts, all scans with their labels, or the scans that have a final label."""
    if output == "stats":
        return datastore_statistics(service)
    scans = [scan.id for scan in service.store.scans.list_scans()]
    if output == "train":
        return [{"image": scan, "label": scan} for scan in scans if "final" in service.labels.tags(scan)]
    tagged = {scan: {tag: {"ext": LABEL_ENDING, "info": {}} for tag in service.labels.tags(scan)} for scan in scans}
    return {"name": "s2vnet", "objects": {scan: {"image": {"info": {}}, "labels": tagged[scan]} for scan in scans}}


@router.put("/datastore/")
@router.put("/datastore/image")
def add_image(service: ServiceDep, file: UploadFile) -> dict[str, str]:
    """Upload a scan. It gets a new name, since file names may identify patients."""
    return {"image": service.store.scans.receive(file.filename or "", file.file).id}


@router.head("/datastore/image")
@router.get("/datastore/image")
def image(service: ServiceDep, image: str) -> Response:
    """Return a scan's file."""
    path = service.store.scans.find(image)
    if path.is_dir():
        raise InputError("a DICOM folder cannot be sent as one file; open it where it lies")
    return FileResponse(path, filename=f"image{''.join(path.suffixes[-2:])}")


@router.get("/datastore/image/info")
def image_info(service: ServiceDep, image: str) -> dict[str, Any]:
    """Return a scan's grid and label tags."""
    geometry = read_geometry(service.store.scans.find(image))
    return {"shape": geometry.shape, "spacing": geometry.spacing, "labels": service.labels.tags(image)}


@router.put("/datastore/label")
def save_label(
    service: ServiceDep, image: str, label: UploadFile, params: Annotated[str, Form()] = "{}", tag: str = "final"
) -> dict[str, str]:
    """Save a label of a scan: OHIF's ``.bin`` (uint8 in Fortran order), or a file on the scan's grid."""
    parse_params(params)
    geometry = read_geometry(service.store.scans.find(image))
    filename = (label.filename or "").lower()
    if filename.endswith(".bin"):
        raw = label.file.read(int(np.prod(geometry.shape)) + 1)
        if len(raw) != np.prod(geometry.shape):
            raise InputError(
                f"label of {len(raw)} bytes for {int(np.prod(geometry.shape))} voxels; send a byte a voxel"
            )
        labels = LabelMap(np.frombuffer(raw, np.uint8).reshape(geometry.shape, order="F"), geometry)
    else:
        upload, path = service.store.scans.new_upload(filename)
        try:
            service.store.scans.write(path, label.file)
            labels = _read_label(service.store.scans.find(upload.id), geometry)
        finally:
            path.unlink(missing_ok=True)
    service.labels.save(tag or "final", image, labels)
    return {"image": image, "label": image}


@router.head("/datastore/label")
@router.get("/datastore/label")
def label(service: ServiceDep, label: str, tag: str = "final") -> Response:
    """Return a saved label."""
    return FileResponse(
        _saved_path(service, label, tag), media_type="application/gzip", filename=f"label{LABEL_ENDING}"
    )


@router.get("/datastore/label/info")
def label_info(service: ServiceDep, label: str, tag: str = "final") -> dict[str, Any]:
    """List the classes in a saved label."""
    return {"labels": np.unique(read_labels(_saved_path(service, label, tag)).data).tolist()}


class SampleRequest(BaseModel):
    """Body of an active learning request; other fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    client_id: str | None = None


@router.post("/activelearning/{strategy}")
def next_sample(service: ServiceDep, strategy: str, request: SampleRequest | None = None) -> dict[str, Any]:
    """Return the scan to label next; an empty object when all have a final label."""
    if strategy not in STRATEGIES:
        raise InputError(f"no strategy {strategy!r}; choose one of {', '.join(STRATEGIES)}")
    unlabelled = [scan for scan in service.store.scans.list_scans() if "final" not in service.labels.tags(scan.id)]
    if not unlabelled:
        return {}
    chosen = random.choice(unlabelled) if strategy == "random" else unlabelled[0]
    if strategy == UNCERTAINTY and (scores := service.uncertainty.scores([scan.id for scan in unlabelled])):
        chosen = max(unlabelled, key=lambda scan: scores.get(scan.id, -1.0))
    return {"id": chosen.id, "name": Path(chosen.name).name, "path": "", "ts": 0, "checksum": ""}


def _read_label(path: Path, geometry: Geometry) -> LabelMap:
    """Read a label, with the grid of its scan; its size is checked before it is decompressed.

    Raises:
        InputError: another grid or size.
    """
    geometry.require_same_grid(read_geometry(path), "scan and label")
    claimed, voxels = count_voxels(path), math.prod(geometry.shape)
    if claimed != voxels:
        raise InputError(f"label of {claimed} values for {voxels} voxels; send one a voxel")
    return LabelMap(read_labels(path).data, geometry)


def datastore_statistics(service: MonaiLabel) -> dict[str, Any]:
    """Count scans and labels."""
    scans = [scan.id for scan in service.store.scans.list_scans()]
    final = [scan for scan in scans if "final" in service.labels.tags(scan)]
    counts = {tag: sum(tag in service.labels.tags(scan) for scan in scans) for tag in TAGS}
    return {"total": len(scans), "completed": len(final), "label_tags": counts, "train": [{"image": s} for s in final]}


def _saved_path(service: MonaiLabel, scan: str, tag: str) -> Path:
    service.store.scans.find(scan)
    path = service.labels.path(tag, scan)
    if not path.exists():
        raise InputError(f"no such label: the scan has no {tag} one")
    return path
