"""s2vnet's own HTTP API: REST for all functions, and a WebSocket for live updates."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import anyio
from fastapi import APIRouter, Depends, Query, Request, UploadFile, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse, PlainTextResponse, Response
from pydantic import TypeAdapter, ValidationError
from starlette.types import Receive, Scope, Send

from s2vnet._version import __version__
from s2vnet.errors import CapacityError, InputError
from s2vnet.inference.label_writers import DICOM_FORMATS, LABEL_MAP_FORMATS
from s2vnet.io.files import write_image
from s2vnet.io.geometry import Volume
from s2vnet.io.segment_names import Segment, snap_descriptions
from s2vnet.server.client_watch import ClientWatch
from s2vnet.server.messages import private_folders, without_folders
from s2vnet.server.model_library import ServedModel
from s2vnet.server.scan_library import upload_ending
from s2vnet.server.schemas import (
    Add,
    ClassStyle,
    Info,
    LabelClass,
    Model,
    Open,
    Operation,
    Problem,
    Remove,
    Replace,
    Scan,
    SessionSummary,
    State,
    Step,
    Suggestions,
)
from s2vnet.server.security import MAX_OPERATION_BYTES
from s2vnet.server.session_store import SessionStore
from s2vnet.server.session_worker import SessionWorker
from s2vnet.utils.validation_errors import first_error
from s2vnet.visualization.palettes import hex_palette

MAX_QUEUED_MESSAGES = 10_000
"""Largest number of messages waiting for one client; a client that reads more slowly is disconnected."""
MAX_NAMES = 200
"""Largest number of sessions that a client can ask for at once."""
Format = Literal["nii.gz", "nrrd", "mha", "dcm", "labelmap", "rtstruct"]
"""File formats of labels."""
FORMATS = {**{name: name for name in LABEL_MAP_FORMATS}, **{name: ending[1:] for name, ending in DICOM_FORMATS.items()}}
"""File endings by format."""
TRY_AGAIN_LATER = 1013
"""WebSocket close code for clients that may reconnect."""
_MEDIA_TYPES = {"nii.gz": "application/gzip", "json": "application/json"} | {
    ending[1:]: "application/dicom" for ending in DICOM_FORMATS.values()
}
_operations: TypeAdapter[Operation] = TypeAdapter(Operation)
_ERROR_CODES = (400, 401, 403, 404, 413, 422, 429, 503)
_problems: dict[int | str, dict[str, Any]] = {code: {"model": Problem} for code in _ERROR_CODES}
router = APIRouter(prefix="/api", responses=_problems)


def _store(request: Request) -> SessionStore:
    store: SessionStore = request.app.state.store
    return store


def _worker(request: Request, name: str) -> SessionWorker:
    return _store(request).get(name)


StoreDep = Annotated[SessionStore, Depends(_store)]
WorkerDep = Annotated[SessionWorker, Depends(_worker)]


@router.get("/info")
def info(store: StoreDep) -> Info:
    """Return the models, their classes, and this server's limits."""
    settings = store.settings
    return Info(
        version=__version__,
        models=tuple(map(_describe, store.models)),
        max_upload_mb=settings.max_upload_mb,
        max_voxels=settings.max_voxels,
        token_needed=settings.token is not None,
    )


def _describe(model: ServedModel) -> Model:
    colours = hex_palette(max(model.classes) + 1)
    classes = tuple(LabelClass(id=k, name=name, color=colours[k]) for k, name in model.classes.items())
    channels = model.plan.channels
    return Model(name=model.name, sha256=model.sha256, modality=model.modality, channels=channels, classes=classes)


@router.get("/scans")
def scans(store: StoreDep) -> list[Scan]:
    """List the scans in the data folder."""
    return store.scans.list_scans()


@router.post("/scans", status_code=201)
def send_scan(store: StoreDep, file: UploadFile) -> Scan:
    """Upload a scan: NIfTI, NRRD, MetaImage, or DICOM files in a .zip."""
    return store.scans.receive(file.filename or "", file.file)


@router.get("/sessions")
def sessions(store: StoreDep, name: Annotated[list[str], Query(max_length=MAX_NAMES)] = []) -> list[SessionSummary]:  # noqa: B006
    """Describe the sessions of these names, or all sessions on a server of one user; the newest first."""
    return store.summaries(name)


@router.post("/sessions", status_code=201)
def open_session(store: StoreDep, request: Open) -> State:
    """Open a session on a scan with one of the models; the scan is read, encoded and segmented in the background."""
    return store.open(request.image, request.model).state()


def _encode(state: State) -> Response:
    """Encode a state within the endpoint's thread; that of many prompts would hold up the event loop."""
    return Response(state.model_dump_json(), media_type="application/json")


@router.get("/sessions/{name}", response_model=State)
def state(worker: WorkerDep) -> Response:
    """Return the state of a session."""
    return _encode(worker.state())


@router.delete("/sessions/{name}", status_code=204)
def end(store: StoreDep, name: str) -> None:
    """Close a session and delete it."""
    store.end(name)


@router.post("/sessions/{name}/prompts", response_model=State)
def add(worker: WorkerDep, operation: Add) -> Response:
    """Add prompts and locks as one operation."""
    return _encode(worker.apply(operation))


@router.put("/sessions/{name}/prompts", response_model=State)
def replace(worker: WorkerDep, operation: Replace) -> Response:
    """Replace the log as one operation."""
    return _encode(worker.apply(operation))


@router.delete("/sessions/{name}/prompts/{index}", response_model=State)
def remove(worker: WorkerDep, index: int) -> Response:
    """Remove one entry of the log."""
    return _encode(worker.apply(Remove(index=index)))


@router.post("/sessions/{name}/steps", response_model=State)
def step(worker: WorkerDep, operation: Step) -> Response:
    """Undo, redo, or reset."""
    return _encode(worker.apply(operation))


@router.get("/sessions/{name}/image", response_class=FileResponse)
async def image(request: Request, worker: WorkerDep) -> Response:
    """Return the image as the server reads it, as NIfTI; its original file where that is equivalent."""

    def respond(_: float) -> Response:
        if (path := worker.plain_file()) is not None:
            return FileResponse(path, media_type=_MEDIA_TYPES["nii.gz"], filename=f"{worker.name[:8]}.nii.gz")
        return temporary_file_response(worker.name, "nii.gz", lambda path: _write_plain(path, worker.read_image()))

    return await worker.image_queue.run(respond, ClientWatch(request))


def _write_plain(path: Path, volume: Volume) -> None:
    """Write an image with a header that states its grid once and in mm, since viewers choose otherwise."""
    write_image(path, dataclasses.replace(volume, geometry=dataclasses.replace(volume.geometry, nifti_forms=None)))


@router.get("/sessions/{name}/labels", response_class=FileResponse)
async def labels(request: Request, worker: WorkerDep, format: Format = "nii.gz") -> Response:
    """Return the labels on exactly the image's grid, once all requested operations are computed.

    For a DICOM series also as SEG (`dcm`: binary; `labelmap`) and as RT structure set (`rtstruct`), which refer to its
    images; an error for other scans, and if the packages to write them are not installed. A client that leaves frees
    its place in the queue; the session goes on, since it may ask again.
    """
    client = ClientWatch(request)

    def respond(seconds: float) -> Response:
        return temporary_file_response(worker.name, FORMATS[format], lambda path: worker.save(path, seconds, client))

    return await worker.label_queue.run(respond, client)


@router.post("/sessions/{name}/labels", status_code=201)
def load_labels(store: StoreDep, name: str, file: UploadFile) -> State:
    """Open a new session on the same scan, which starts from these labels: a NIfTI, NRRD or MetaImage file.

    Values that are no class of the model become added classes. NRRD files that state names, as 3D Slicer's and this
    server's do, are matched by name.
    """
    with tempfile.TemporaryDirectory(prefix="s2vnet-") as folder:
        path = Path(folder) / f"labels{upload_ending(file.filename or '')}"
        with path.open("wb") as target:
            shutil.copyfileobj(file.file, target)
        return store.open_with_labels(name, path).state()


@router.put("/sessions/{name}/classes/{class_id}", response_model=State)
def set_class(worker: WorkerDep, class_id: int, style: ClassStyle) -> Response:
    """Name and colour a class, also in saved labels."""
    return _encode(worker.set_style(class_id, style))


@router.get(
    "/sessions/{name}/label-descriptions", response_class=Response, responses={200: {"content": {"text/plain": {}}}}
)
def label_descriptions(worker: WorkerDep) -> Response:
    """Return names and colours of the classes as ITK-SNAP's label description file."""
    segments = [Segment(each.id, each.name, each.color) for each in worker.state().classes]
    return PlainTextResponse(snap_descriptions(segments))


@router.get("/sessions/{name}/log", response_class=FileResponse)
async def log(worker: WorkerDep) -> Response:
    """Return the prompt log, as `s2vnet interact --log` reads and writes it."""

    def respond(seconds: float) -> Response:
        def write(path: Path) -> None:
            worker.when_ready(lambda session: session.save_log(path), seconds)

        return temporary_file_response(worker.name, "json", write)

    return await worker.label_queue.run(respond)


@router.get("/sessions/{name}/suggestions")
async def suggestions(worker: WorkerDep) -> Suggestions:
    """Return the places of highest uncertainty away from prompts, the most uncertain first."""
    places = await worker.label_queue.run(
        lambda seconds: worker.when_ready(lambda session: session.places_to_check(), seconds)
    )
    return Suggestions(places=[list(place) for place in places])


@router.websocket("/sessions/{name}/live")
async def live(socket: WebSocket, name: str) -> None:
    """Receive operations, and send states, problems and blocks of labels in order."""
    await socket.accept()
    try:
        worker = await anyio.to_thread.run_sync(socket.app.state.store.get, name)
    except InputError as error:
        detail = without_folders(str(error), private_folders(socket.app.state.store.settings))
        await socket.send_text(Problem(detail=detail).model_dump_json())
        return await socket.close(TRY_AGAIN_LATER if isinstance(error, CapacityError) else 1000)
    loop, messages = asyncio.get_running_loop(), asyncio.Queue[str | bytes | None](MAX_QUEUED_MESSAGES)

    def put(message: str | bytes) -> None:
        try:
            messages.put_nowait(message)
        except asyncio.QueueFull:
            while not messages.empty():
                messages.get_nowait()
            messages.put_nowait(None)

    def listener(message: str | bytes) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop may end before the thread
            loop.call_soon_threadsafe(put, message)

    async def send() -> None:
        while (message := await messages.get()) is not None:
            await (socket.send_text(message) if isinstance(message, str) else socket.send_bytes(message))
        await socket.close(TRY_AGAIN_LATER, "too slow a reader; connect again")

    async def receive() -> None:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            problem = await anyio.to_thread.run_sync(_apply, worker, message.get("text") or "")
            if problem is not None:
                put(problem)

    subscription = worker.listen(listener)
    await anyio.to_thread.run_sync(subscription.__enter__)  # compresses all labels
    try:
        tasks = [asyncio.create_task(send()), asyncio.create_task(receive())]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        for task in done:
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                task.result()
    finally:
        await anyio.to_thread.run_sync(subscription.__exit__, None, None, None)


def _apply(worker: SessionWorker, text: str) -> str | None:
    """Apply an operation given as JSON; return a problem message if it is refused, else None."""
    key = None
    try:
        if len(text) > MAX_OPERATION_BYTES:
            raise InputError("more than an operation can be")
        operation = _operations.validate_json(text)
        key = operation.key
        worker.apply(operation)
    except ValidationError as error:
        return Problem(detail=f"no operation: {first_error(error)}", key=_key(text)).model_dump_json()
    except InputError as error:
        return Problem(detail=worker.public_message(error), key=key).model_dump_json()
    return None


def _key(text: str) -> str | None:
    """Return the key of an operation that is otherwise invalid."""
    with contextlib.suppress(ValueError, AttributeError, RecursionError):
        key = json.loads(text).get("key")
        return key if isinstance(key, str) else None
    return None


class _TemporaryFileResponse(FileResponse):
    """File in a temporary folder, which is deleted also where the client leaves while it is sent."""

    def __init__(self, folder: tempfile.TemporaryDirectory[str], path: Path, media_type: str, filename: str) -> None:
        super().__init__(path, media_type=media_type, filename=filename)
        self._folder = folder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._folder.cleanup()


def temporary_file_response(name: str, ending: str, write: Callable[[Path], None]) -> FileResponse:
    """Write a temporary file and respond with it; it is deleted after it has been sent."""
    folder = tempfile.TemporaryDirectory(prefix="s2vnet-")
    path = Path(folder.name) / f"{name[:8]}.{ending}"
    try:
        write(path)
    except BaseException:
        folder.cleanup()
        raise
    media_type = _MEDIA_TYPES.get(ending, "application/octet-stream")
    return _TemporaryFileResponse(folder, path, media_type=media_type, filename=path.name)
