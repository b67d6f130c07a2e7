"""Routes that segment scans, and sessions on uploaded ones."""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Form, UploadFile
from fastapi.responses import FileResponse, Response

from s2vnet.errors import InputError
from s2vnet.inference.label_writers import write_result
from s2vnet.io.files import write_labels
from s2vnet.io.geometry import LabelMap
from s2vnet.prompts import Point
from s2vnet.server.api import temporary_file_response
from s2vnet.server.protocols.monailabel.service import CLICKS, LABEL_ENDING, MonaiLabel, ServiceDep, parse_params
from s2vnet.server.scan_library import UPLOAD_PREFIX
from s2vnet.server.schemas import MAX_ENTRIES

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")
NOT_CLASSES = {
    "client_id", "device", "model", "image", "label", "label_info", "label_names", "result_extension",
    "result_dtype", "result_compress", "result_write_to_file", "restore_label_idx", "save_label", "label_tag",
    "session", "description", "largest_cc", "cache_transforms", "cache_transforms_in_memory",
    "cache_transforms_ttl", "timeout", "logging",
}  # fmt: skip
"""Keys of `params` that are not class names; most have no effect here."""
router = APIRouter()


@router.post("/infer/{model}")
async def infer(
    service: ServiceDep,
    model: Literal["automatic", "clicks"],
    image: str = "",
    session_id: str = "",
    params: Annotated[str, Form()] = "{}",
    file: UploadFile | None = None,
    output: Literal["image", "json", "all", "dicom_seg"] | None = None,
) -> Response:
    """Segment a scan with the clicks of `params`: ``{"spleen": [[i, j, k], ...], "background": [...]}``."""
    options, start = parse_params(params), time.monotonic()
    names = service.store.segmenter.class_names
    points = parse_points(options, names) if model == CLICKS else ()
    upload = None if session_id else file
    scan = await to_thread.run_sync(_find_scan, service, image, session_id, upload)

    def respond(seconds: float) -> Response:
        path = service.store.scans.find(scan)
        try:
            labels = _segment(service, scan, points, seconds)
            if options.get("save_label"):
                service.labels.save(str(options.get("label_tag", "original")), scan, labels)
            result = {"label_names": {name: k for k, name in names.items()}, "latency": time.monotonic() - start}
            with _without_path(path, service.store.scans.describe(scan).name):
                return _labels_response(path, labels, output, options, result, bool(points))
        finally:
            if upload is not None:
                service.end_session(scan)
                path.unlink(missing_ok=True)

    return await service.queue(scan).run(respond)


@router.put("/session/")
def create_session(service: ServiceDep, files: list[UploadFile]) -> dict[str, Any]:
    """Upload a scan for several requests."""
    if len(files) != 1:
        raise InputError("a session takes one file; send a DICOM series as a .zip")
    name = service.store.scans.receive(files[0].filename or "", files[0].file).id.removeprefix(UPLOAD_PREFIX)
    return {"session_id": name, "session_info": _session_info(service, name)}


@router.get("/session/{name}")
def get_session(service: ServiceDep, name: str) -> dict[str, Any]:
    """Return a session, if it still exists."""
    return _session_info(service, name)


@router.delete("/session/{name}")
def remove_session(service: ServiceDep, name: str) -> dict[str, Any]:
    """End a session and delete its scan."""
    path = _uploaded_scan(service, name)
    service.end_session(UPLOAD_PREFIX + name)
    path.unlink(missing_ok=True)
    return {}


def _find_scan(service: MonaiLabel, image: str, session: str, file: UploadFile | None) -> str:
    """Return the id of a request's scan: of a session, uploaded with it, or named. Raises InputError if none exists."""
    if session:
        _uploaded_scan(service, session)
        return UPLOAD_PREFIX + session
    if file is not None:
        return service.store.scans.receive(file.filename or "", file.file).id
    service.store.scans.find(image)
    return image


def _segment(service: MonaiLabel, scan: str, points: tuple[Point, ...], seconds: float) -> LabelMap:
    """Segment a scan with clicks."""
    with service.session(scan) as worker:
        worker.wait_ready(seconds)  # from then on the scan's size is known, and clicks outside it are refused
        worker.replace_log(points)
        return worker.when_ready(lambda session: session.result, seconds)


@contextmanager
def _without_path(path: Path, name: str) -> Iterator[None]:
    """Replace a scan's path in error messages by its name."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace(str(path), name)) from error


def _labels_response(
    image: Path,
    labels: LabelMap,
    output: str | None,
    options: Mapping[str, Any],
    result: dict[str, Any],
    corrected: bool,
) -> Response:
    """Respond with labels in the requested form."""
    if output == "json":
        return Response(json.dumps(result), media_type="application/json")
    filename = uuid.uuid4().hex
    if output == "dicom_seg":
        names = {value: name for name, value in result["label_names"].items()}

        def write(path: Path) -> None:
            write_result(path, labels, names, image, corrected=corrected)

        return temporary_file_response(filename, "dcm", write)
    ending = options.get("result_extension", LABEL_ENDING)
    if ending not in ENDINGS:
        raise InputError(f"no format {ending!r}; choose one of {', '.join(ENDINGS)}")
    content = temporary_file_response(filename, ending[1:], lambda path: write_labels(path, labels))
    return content if output == "image" else _multipart(result, Path(content.path), content)


def parse_points(params: Mapping[str, Any], names: Mapping[int, str]) -> tuple[Point, ...]:
    """Parse the clicks of all classes. Raises InputError for unknown keys, invalid voxels or too many clicks."""
    ids = {name: value for value, name in names.items()}
    points: list[Point] = []
    for key, voxels in params.items():
        if key not in ids:
            if key not in NOT_CLASSES:
                raise InputError(f"no class and no parameter {key!r}; the model knows {', '.join(ids)}")
            continue
        try:
            points += [Point(class_id=ids[key], voxel=tuple(int(n) for n in voxel)) for voxel in voxels]
        except (OverflowError, TypeError, ValueError) as error:
            raise InputError(f"{key}: clicks are given as [[i, j, k], ...]") from error
    if len(points) > MAX_ENTRIES:
        raise InputError(f"{len(points)} clicks, more than {MAX_ENTRIES}")
    return tuple(points)


def _uploaded_scan(service: MonaiLabel, name: str) -> Path:
    """Return the path of a session's scan, which has the session's name, and mark it as used now."""
    try:
        path = service.store.scans.find(UPLOAD_PREFIX + name)
    except InputError as error:
        raise InputError("no such session; send the scan again") from error
    with contextlib.suppress(OSError):
        os.utime(path)
    return path


def _session_info(service: MonaiLabel, name: str) -> dict[str, Any]:
    last_used, days = _uploaded_scan(service, name).stat().st_mtime, service.store.settings.keep_days
    return {
        "name": name,
        "image": UPLOAD_PREFIX + name,
        "last_access_ts": int(last_used),
        "expiry": int(days * 86400),
        "meta": {},
    }


def _multipart(params: Mapping[str, Any], path: Path, content: FileResponse) -> Response:
    """Respond with parameters and a file, as MONAI Label's own server does."""
    boundary = uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="params"\r\nContent-Type: application/json\r\n\r\n'
    file = f'\r\n--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{path.name}"\r\n'
    file += f"Content-Type: {content.media_type}\r\n\r\n"
    parts = [
        head.encode(),
        json.dumps(params).encode(),
        file.encode(),
        path.read_bytes(),
        f"\r\n--{boundary}--\r\n".encode(),
    ]
    return Response(
        b"".join(parts), media_type=f"multipart/form-data; boundary={boundary}", background=content.background
    )
