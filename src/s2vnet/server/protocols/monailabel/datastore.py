"""Routes for images: list, upload, download and deletion, and what is known about them."""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, HTTPException, Query, UploadFile
from fastapi.responses import FileResponse, Response

from s2vnet.errors import NotFoundError
from s2vnet.io.files import read_geometry
from s2vnet.server.api import temporary_file_response
from s2vnet.server.protocols.monailabel.image_ids import CONVERTED_ENDING, write_converted
from s2vnet.server.protocols.monailabel.saved_labels import FINAL, LABEL_ENDING, TAGS
from s2vnet.server.protocols.monailabel.service import MonaiLabel, ServiceDep, parse_params
from s2vnet.server.scan_library import upload_ending
from s2vnet.server.security import FORBIDDEN

router = APIRouter()


@router.get("/datastore/")
def datastore(service: ServiceDep, output: Literal["stats", "all", "train"] = "stats") -> Any:
    """Return counts, all images with their labels, or the images that have a final label."""
    if output == "stats":
        return datastore_statistics(service)
    if output == "train":
        return [{"image": image, "label": image} for image in service.final_images()]
    images = service.images.all()
    objects = {service.images.public(image): describe_image(service, image) for image in images}
    return {"name": "s2vnet", "description": "images that clients may label", "objects": objects}


@router.put("/datastore/")
@router.put("/datastore/image")
def add_image(
    service: ServiceDep, file: UploadFile, image: str = "", params: Annotated[str, Form()] = "{}"
) -> dict[str, str]:
    """Add an image under the id that a client chose; without one it is an upload under a random id."""
    info = parse_params(params)
    if not image:
        return {"image": service.store.scans.receive(file.filename or "", file.file).id}
    scan = service.store.scans.add(image, file.filename or "", file.file).id
    service.end_session(scan)  # of an earlier image of this id
    service.labels.update_image_info(scan, info)
    return {"image": image}


@router.delete("/datastore/")
@router.delete("/datastore/image")
def remove_image(service: ServiceDep, id: str) -> dict[str, Any]:
    """Delete an image that a client added, with its labels; files of the data folder are never deleted."""
    scan = service.images.resolve(id)
    if service.store.scans.added.find(scan) is None:
        raise HTTPException(FORBIDDEN, "only images that clients added can be deleted, not those of the data folder")
    service.end_session(scan)
    service.labels.forget(scan)
    service.store.scans.added.remove(scan)
    return {}


@router.head("/datastore/image")
def check_image(service: ServiceDep, image: str, check_sum: str = "") -> Response:
    """Report whether an image exists, and has a checksum (SHA256) if one is given."""
    scan = service.images.resolve(image)
    expected = check_sum if ":" in check_sum else f"SHA256:{check_sum}"
    if check_sum and expected.lower() != service.images.checksum(scan).lower():
        raise NotFoundError("no such image: it has another checksum")
    return Response()


@router.get("/datastore/image")
def download_image(service: ServiceDep, image: str) -> Response:
    """Return an image's file; a DICOM series as NIfTI."""
    scan = service.images.resolve(image)
    path, name = service.store.scans.find(scan), service.images.download_name(scan)
    if not path.is_dir():
        return FileResponse(path, filename=name)
    response = temporary_file_response("image", CONVERTED_ENDING[1:], lambda target: write_converted(target, path))
    response.headers["content-disposition"] = f'attachment; filename="{name}"'
    return response


@router.get("/datastore/image/info")
def image_info(service: ServiceDep, image: str) -> dict[str, Any]:
    """Return an image's grid and label tags, and what clients said about it."""
    scan = service.images.resolve(image)
    geometry = read_geometry(service.store.scans.find(scan))
    grid = {"shape": geometry.shape, "spacing": geometry.spacing, "labels": service.labels.tags(scan)}
    return {**service.labels.image_info(scan), **describe_image(service, scan)["image"]["info"], **grid}


@router.put("/datastore/image/info")
def update_image_info(service: ServiceDep, image: str, info: Annotated[str, Form()] = "{}") -> dict[str, Any]:
    """Add facts about an image."""
    service.labels.update_image_info(service.images.resolve(image), parse_params(info))
    return {}


@router.get("/datastore/dataset")
def dataset(service: ServiceDep, limit_cases: Annotated[int | None, Query(gt=0)] = None) -> Response:
    """Return the images with a final label, their labels and a description as an uncompressed .zip.

    An image and its label have equal names but for the ending; `metadata.json` has them by id.
    """
    images = service.final_images()[:limit_cases]
    if not images:
        raise HTTPException(404, "no image has a final label")

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for image in images:
                name = service.images.download_name(image)
                _archive_image(archive, service.store.scans.find(image), f"image/{name}")
                archive.write(service.labels.path(FINAL, image), f"label/{service.images.label_name(image)}")
            objects = {image: describe_image(service, image) for image in images}
            archive.writestr("metadata.json", json.dumps({"name": "s2vnet", "objects": objects}))

    return temporary_file_response("dataset", "zip", write)


def _archive_image(archive: zipfile.ZipFile, path: Path, name: str) -> None:
    """Add an image to an archive; a DICOM series as NIfTI."""
    if not path.is_dir():
        return archive.write(path, name)
    with tempfile.TemporaryDirectory(prefix="s2vnet-") as folder:
        converted = Path(folder) / f"image{CONVERTED_ENDING}"
        write_converted(converted, path)
        return archive.write(converted, name)


def describe_image(service: MonaiLabel, scan: str) -> dict[str, Any]:
    """Return an image and its labels, as clients list them."""
    path, labels = service.store.scans.find(scan), service.labels
    info = {**labels.image_info(scan), "ts": int(path.stat().st_mtime), "name": service.images.download_name(scan)}
    ending = CONVERTED_ENDING if path.is_dir() else upload_ending(path.name)
    name = {"name": service.images.label_name(scan)}
    tagged = {tag: {"ext": LABEL_ENDING, "info": labels.label_info(tag, scan) | name} for tag in labels.tags(scan)}
    return {"image": {"ext": ending, "info": info}, "labels": tagged}


def datastore_statistics(service: MonaiLabel) -> dict[str, Any]:
    """Count images and labels."""
    tagged = {image: service.labels.tags(image) for image in service.images.all()}
    counts = dict.fromkeys(TAGS, 0)
    for tags in tagged.values():
        counts |= {tag: counts.get(tag, 0) + 1 for tag in tags}
    final = [image for image, tags in tagged.items() if FINAL in tags]
    return {
        "total": len(tagged),
        "completed": len(final),
        "label_tags": counts,
        "train": [{"image": image} for image in final],
    }
