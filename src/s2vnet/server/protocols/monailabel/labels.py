"""Routes for labels: upload, download and deletion, and what is known about them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Form, Query, UploadFile
from fastapi.responses import FileResponse, Response

from s2vnet.errors import InputError
from s2vnet.io.files import count_voxels, read_geometry, read_labels
from s2vnet.io.geometry import Geometry, LabelMap
from s2vnet.server.protocols.monailabel.saved_labels import FINAL, label_names, map_classes
from s2vnet.server.protocols.monailabel.service import MODEL_KEY, MonaiLabel, ServiceDep, parse_params

RAW_ENDING = ".bin"
"""Ending of OHIF's labels: voxels in Fortran order."""
_RAW_DTYPES = (np.dtype(np.uint8), np.dtype("<u2"))
"""Of OHIF's plugin since its version 3, and before."""
router = APIRouter()


@router.put("/datastore/label")
def save_label(
    service: ServiceDep, image: str, label: UploadFile, params: Annotated[str, Form()] = "{}", tag: str = FINAL
) -> dict[str, str]:
    """Save a label of an image: OHIF's ``.bin``, or a file on the image's grid; `label_info` names its values."""
    info, scan = parse_params(params), service.images.resolve(image)
    labels = read_sent_labels(service, scan, label)
    model = service.model_of_label(scan, label_names(info.get("label_info")))
    labels = map_classes(labels, info.get("label_info"), model.classes)
    service.labels.save(tag or FINAL, scan, labels, {**info, MODEL_KEY: model.name})
    return {"image": image, "label": image}


@router.delete("/datastore/label")
def remove_label(service: ServiceDep, id: str, tag: str) -> dict[str, Any]:
    """Delete a label."""
    service.labels.remove(tag, service.images.resolve(id))
    return {}


@router.head("/datastore/label")
def check_label(
    service: ServiceDep,
    image: str = "",
    label: str = "",
    tag: str = FINAL,
) -> Response:
    """Report whether an image has a label."""
    service.labels.find(tag or FINAL, service.images.resolve(image or label))
    return Response()


@router.get("/datastore/label")
def download_label(service: ServiceDep, label: str, tag: str = FINAL) -> Response:
    """Return a saved label."""
    scan = service.images.resolve(label)
    path = service.labels.find(tag or FINAL, scan)
    return FileResponse(path, media_type="application/gzip", filename=service.images.label_name(scan))


@router.get("/datastore/label/info")
def label_info(service: ServiceDep, label: str, tag: str = FINAL) -> dict[str, Any]:
    """Return what clients said about a label, and its classes."""
    scan = service.images.resolve(label)
    classes = np.unique(read_labels(service.labels.find(tag or FINAL, scan)).data).tolist()
    name = service.images.label_name(scan)
    return {**service.labels.label_info(tag or FINAL, scan), "name": name, "labels": classes}


@router.put("/datastore/label/info")
def update_label_info(
    service: ServiceDep, label: str, tag: Annotated[str, Query()] = FINAL, info: Annotated[str, Form()] = "{}"
) -> dict[str, Any]:
    """Add facts about a label."""
    service.labels.update_label_info(tag or FINAL, service.images.resolve(label), parse_params(info))
    return {}


@router.put("/datastore/updatelabelinfo")
def update_label_info_by_params(
    service: ServiceDep, label: str, tag: Annotated[str, Query()] = FINAL, params: Annotated[str, Form()] = "{}"
) -> dict[str, Any]:
    """Add facts about a label in the form of 3D Slicer's MONAILabelReviewer."""
    return update_label_info(service, label, tag, params)


def read_sent_labels(service: MonaiLabel, scan: str, label: UploadFile) -> LabelMap:
    """Read a label that a client sent, on the grid of its image.

    Raises:
        InputError: unreadable, or of another grid or size.
    """
    geometry = read_geometry(service.store.scans.find(scan))
    if (label.filename or "").lower().endswith(RAW_ENDING):
        return _read_raw(label, geometry)
    _, path = service.store.scans.new_upload(label.filename or "")
    try:
        service.store.scans.write(path, label.file)
        return _read_file(path, geometry)
    finally:
        path.unlink(missing_ok=True)


def _read_raw(label: UploadFile, geometry: Geometry) -> LabelMap:
    voxels = math.prod(geometry.shape)
    raw = label.file.read(voxels * _RAW_DTYPES[-1].itemsize + 1)
    dtype = next((dtype for dtype in _RAW_DTYPES if dtype.itemsize * voxels == len(raw)), None)
    if dtype is None:
        raise InputError(f"label of {len(raw)} bytes for {voxels} voxels; send one or two bytes a voxel")
    values: Any = np.frombuffer(raw, dtype).reshape(geometry.shape, order="F")
    return LabelMap(values.astype(dtype.newbyteorder("=")), geometry)


def _read_file(path: Path, geometry: Geometry) -> LabelMap:
    """Read a label, with the grid of its image; its size is checked before it is decompressed."""
    geometry.require_same_grid(read_geometry(path), "scan and label")
    claimed, voxels = count_voxels(path), math.prod(geometry.shape)
    if claimed != voxels:
        raise InputError(f"label of {claimed} values for {voxels} voxels; send one a voxel")
    return LabelMap(read_labels(path).data, geometry)
