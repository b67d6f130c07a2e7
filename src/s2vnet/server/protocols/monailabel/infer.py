"""Routes that segment scans."""

from __future__ import annotations

import json
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from anyio import to_thread
from fastapi import APIRouter, Form, Request, UploadFile
from fastapi.responses import Response

from s2vnet.errors import InputError
from s2vnet.inference.label_writers import write_result
from s2vnet.io.files import write_labels
from s2vnet.io.geometry import LabelMap
from s2vnet.prompts import Entry, NewClass, Point
from s2vnet.server.api import temporary_file_response
from s2vnet.server.client_watch import ClientWatch
from s2vnet.server.protocols.monailabel.labels import read_sent_labels
from s2vnet.server.protocols.monailabel.prompts import chosen_class, class_clicks, object_clicks, scribble_prompts
from s2vnet.server.protocols.monailabel.saved_labels import LABEL_ENDING, ORIGINAL, map_classes
from s2vnet.server.protocols.monailabel.service import (
    CLICKS,
    MODEL_KEY,
    OBJECT,
    SCRIBBLES,
    MonaiLabel,
    NamedModel,
    ServiceDep,
    parse_params,
)
from s2vnet.server.protocols.monailabel.sessions import receive, session_scan
from s2vnet.server.protocols.one_object_client import object_class
from s2vnet.server.scan_library import UPLOAD_PREFIX

ENDINGS = (LABEL_ENDING, ".nii", ".nrrd", ".mha")
DTYPES = ("uint8", "uint16")
router = APIRouter()


@router.post("/infer/{model}")
async def infer(
    request: Request,
    service: ServiceDep,
    model: str,
    image: str = "",
    session_id: str = "",
    params: Annotated[str, Form()] = "{}",
    file: UploadFile | None = None,
    label: UploadFile | None = None,
    output: Literal["image", "json", "all", "dicom_seg"] | None = None,
) -> Response:
    """Segment a scan, with the prompts that `params` and, for the model ``scribbles``, a label map contain.

    The scan is named (`image`), or that of a session, or sent with the request; other parameters are ignored.
    """
    named = service.named(model)
    options, start = parse_params(params), time.monotonic()
    client = ClientWatch(request)
    if label is not None and named.kind != SCRIBBLES:
        other = next(name for name, each in service.models.items() if each == (named.model, SCRIBBLES))
        raise InputError(f"a label was sent, which the model {model} does not use; the model {other} does")
    job = Job.parse(named, options, label)
    upload = None if session_id else file
    scan = await to_thread.run_sync(_find_scan, service, image, session_id, upload)

    path = await to_thread.run_sync(service.store.scans.find, scan)

    def respond(seconds: float) -> Response:
        labels, names = job.run(service, scan, seconds, client)
        result: dict[str, Any] = {"label_names": {name: value for value, name in names.items()}}
        if options.get("save_label"):
            info = {"params": dict(result), "model": model, MODEL_KEY: named.model.name}
            values = [{"name": name, "idx": value} for value, name in names.items() if value]
            saved = map_classes(labels, values, named.model.classes)
            service.labels.save(str(options.get("label_tag") or ORIGINAL), scan, saved, info)
        result["latency"] = time.monotonic() - start
        with _without_path(path, service.store.scans.describe(scan).name):
            return _labels_response(path, labels, output, options, result, job.corrects)

    def forget_upload() -> None:
        service.end_session(scan)
        path.unlink(missing_ok=True)

    try:
        return await service.queue(scan).run(respond, client)
    finally:  # also where the client has left before its turn
        if upload is not None:
            await to_thread.run_sync(forget_upload)


@dataclass(frozen=True)
class Job:
    """What a request asks for, checked before its scan is read."""

    named: NamedModel
    options: Mapping[str, Any]
    class_id: int | None
    """Class of an object or of scribbles, if the client has chosen one."""
    clicks: tuple[Point, ...] = ()
    """Of all classes."""
    label: UploadFile | None = None
    """Scribbles as a label map."""
    added: NewClass | None = None
    """Class of an object for which the client has chosen none of the model's."""

    @classmethod
    def parse(cls, named: NamedModel, options: Mapping[str, Any], label: UploadFile | None) -> Job:
        """Parse the parameters of a request. Raises InputError for invalid prompts, or none where one is needed."""
        classes, kind = named.model.classes, named.kind
        class_id = chosen_class(options, classes)
        if kind == CLICKS:
            return cls(named, options, class_id, class_clicks(options, classes))
        if kind == OBJECT:
            inside, outside = object_clicks(options)
            if class_id is None and not inside:
                raise InputError("an object needs a click inside it (foreground), or its class (label)")
            if class_id is None and options.get("save_label"):
                raise InputError(
                    f"an object of no class cannot be saved; name one (label): {', '.join(classes.values())}"
                )
            added = object_class(classes) if class_id is None else None
            class_id = class_id if added is None else added.class_id
            points = [Point(class_id=class_id, positive=True, voxel=voxel) for voxel in inside]
            points += [Point(class_id=class_id, positive=False, voxel=voxel) for voxel in outside]
            return cls(named, options, class_id, tuple(points), added=added)
        if kind == SCRIBBLES:
            if label is None or class_id is None:
                raise InputError(
                    "scribbles need a label map (label) and the class (selected_label_name) they belong to"
                )
            return cls(named, options, class_id, (), label)
        return cls(named, options, class_id)

    @property
    def corrects(self) -> bool:
        """Whether the request contains prompts."""
        return bool(self.clicks) or self.label is not None

    def run(
        self, service: MonaiLabel, scan: str, seconds: float, client: ClientWatch
    ) -> tuple[LabelMap, dict[int, str]]:
        """Segment a scan; return labels and the names of their values.

        Raises:
            InputError: prompts outside the scan, or as :meth:`SessionWorker.when_ready`.
        """
        classes = dict(self.named.model.classes)
        drawing = None if self.label is None else read_sent_labels(service, scan, self.label)
        with service.session(scan, self.named.model) as worker:
            # from then on the scan's size is known, and clicks outside it are refused
            worker.wait_ready(seconds, client)
            entries: tuple[Entry, ...] = self.clicks
            class_id = self.class_id
            if self.added is not None:
                classes[self.added.class_id] = self.added.name
                entries = (self.added, *entries)
            if drawing is not None and class_id is not None:
                entries = scribble_prompts(drawing, self.options, class_id)
            worker.replace_log(entries)
            labels = worker.when_ready(lambda session: session.result, seconds, client)
        if self.named.kind not in (OBJECT, SCRIBBLES) or class_id is None:
            return labels, classes
        mask = (labels.data == class_id).astype(np.uint8)
        return LabelMap(mask, labels.geometry), {1: classes[class_id]}


def _find_scan(service: MonaiLabel, image: str, session: str, file: UploadFile | None) -> str:
    """Return the id of a request's scan: of a session, uploaded with it, or named. Raises InputError if none exists."""
    if session:
        session_scan(service, session)
        return UPLOAD_PREFIX + session
    return receive(service, [file]) if file is not None else service.images.resolve(image)


@contextmanager
def _without_path(path: Path, name: str) -> Iterator[None]:
    """Replace a scan's path in error messages by its name."""
    try:
        yield
    except InputError as error:
        raise error.relocated(path, name) from error


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
    filename = uuid.uuid4().hex[:8]
    if output == "dicom_seg":
        names = {value: name for name, value in result["label_names"].items()}

        def write(path: Path) -> None:
            write_result(path, labels, names, image, corrected=corrected)

        return temporary_file_response(filename, "dcm", write)
    ending = options.get("result_extension") or LABEL_ENDING
    if ending not in ENDINGS:
        raise InputError(f"no format {ending!r}; choose one of {', '.join(ENDINGS)}")
    if (dtype := options.get("result_dtype")) in DTYPES and labels.data.dtype != dtype:
        labels = LabelMap(labels.data.astype(dtype), labels.geometry)
    if output == "image":
        return temporary_file_response(filename, ending[1:], lambda path: write_labels(path, labels))
    with tempfile.TemporaryDirectory(prefix="s2vnet-") as folder:
        path = Path(folder) / f"{filename}{ending}"
        write_labels(path, labels)
        return _multipart(result, path.name, path.read_bytes())


def _multipart(params: Mapping[str, Any], filename: str, content: bytes) -> Response:
    """Respond with parameters and a file, as MONAI Label's own server does.

    MITK finds both parts by their content types: the first is `application/json`, the second
    `application/octet-stream`, whatever the file's format.
    """
    boundary = uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="params"\r\nContent-Type: application/json\r\n\r\n'
    file = f'\r\n--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{filename}"\r\n'
    file += "Content-Type: application/octet-stream\r\n\r\n"
    parts = [
        head.encode(),
        json.dumps(params).encode(),
        file.encode(),
        content,
        f"\r\n--{boundary}--\r\n".encode(),
    ]
    return Response(b"".join(parts), media_type=f"multipart/form-data; boundary={boundary}")
