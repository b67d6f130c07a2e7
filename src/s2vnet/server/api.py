"""s2vnet's own API: REST for everything, and a WebSocket for a viewer. This module knows HTTP only."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import anyio
from fastapi import APIRouter, Depends, Request, UploadFile, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse, Response
from pydantic import TypeAdapter, ValidationError
from starlette.background import BackgroundTask

from s2vnet._version import __version__
from s2vnet.errors import InputError
from s2vnet.inference.label_writers import DICOM_FORMATS, LABEL_MAP_FORMATS
from s2vnet.io.files import write_image
from s2vnet.server.scan_library import Full
from s2vnet.server.schemas import Add, Info, LabelClass, Open, Problem, Remove, Replace, Scan, State, Step, Suggestion
from s2vnet.server.security import MOST_BYTES_ASKED
from s2vnet.server.session_store import SessionStore
from s2vnet.server.session_worker import Operation, SessionWorker
from s2vnet.utils.validation import first_error
from s2vnet.visualization.overlays import hex_palette

MOST_MESSAGES = 10_000
"""Not yet sent to a client that reads too slowly; it is then cut off and can come back."""
Format = Literal["nii.gz", "nrrd", "mha", "dcm", "rtstruct"]
"""In which labels can be had."""
FORMATS = {**{name: name for name in LABEL_MAP_FORMATS}, **{name: ending[1:] for name, ending in DICOM_FORMATS.items()}}
"""Endings of their files."""
TRY_AGAIN_LATER = 1013
"""Why a connection is closed that may come back."""
_KINDS = {"nii.gz": "application/gzip", "json": "application/json"} | {
    ending[1:]: "application/dicom" for ending in DICOM_FORMATS.values()
}
_operations: TypeAdapter[Operation] = TypeAdapter(Operation)
_REFUSALS = (400, 401, 403, 404, 413, 422, 429, 503)
_problems: dict[int | str, dict[str, Any]] = {code: {"model": Problem} for code in _REFUSALS}
router = APIRouter(prefix="/api", responses=_problems)


def _store(request: Request) -> SessionStore:
    store: SessionStore = request.app.state.store
    return store


def _held(request: Request, name: str) -> SessionWorker:
    return _store(request).get(name)


AStore = Annotated[SessionStore, Depends(_store)]
ASession = Annotated[SessionWorker, Depends(_held)]


@router.get("/info")
def info(store: AStore) -> Info:
    """The model, its classes, and this server's limits."""
    settings, names = store.settings, store.segmenter.class_names
    colours = hex_palette(max(names) + 1)
    return Info(
        version=__version__,
        model=settings.model,
        model_sha256=store.segmenter.sha256,
        channels=store.segmenter.plan.channels,
        classes=tuple(LabelClass(id=k, name=name, color=colours[k]) for k, name in names.items()),
        max_upload_mb=settings.max_upload_mb,
        max_voxels=settings.max_voxels,
        token_needed=settings.token is not None,
    )


@router.get("/scans")
def scans(store: AStore) -> list[Scan]:
    """Scans in the data folder."""
    return store.scans.listed()


@router.post("/scans", status_code=201)
def send_scan(store: AStore, file: UploadFile) -> Scan:
    """Keep a scan on the server: NIfTI, NRRD, MetaImage, or DICOM files in a .zip."""
    return store.scans.receive(file.filename or "", file.file)


@router.post("/sessions", status_code=201)
def open_session(store: AStore, wanted: Open) -> State:
    """A session on a scan; reading, encoding and the automatic result follow in the background."""
    return store.open(wanted.image).state()


@router.get("/sessions/{name}")
def state(held: ASession) -> State:
    """How a session stands."""
    return held.state()


@router.delete("/sessions/{name}", status_code=204)
def end(store: AStore, name: str) -> None:
    """Close a session for good."""
    store.end(name)


@router.post("/sessions/{name}/prompts")
def add(held: ASession, operation: Add) -> State:
    """Prompts and locks as one operation."""
    return held.ask(operation)


@router.put("/sessions/{name}/prompts")
def replace(held: ASession, operation: Replace) -> State:
    """Another log as one operation."""
    return held.ask(operation)


@router.delete("/sessions/{name}/prompts/{index}")
def remove(held: ASession, index: int) -> State:
    """Take one entry out of the log."""
    return held.ask(Remove(index=index))


@router.post("/sessions/{name}/steps")
def step(held: ASession, operation: Step) -> State:
    """Undo, redo, or reset."""
    return held.ask(operation)


@router.get("/sessions/{name}/image", response_class=FileResponse)
async def image(held: ASession) -> Response:
    """The image as the server reads it, as NIfTI; its own file where that says the same."""

    def written(_: float) -> Response:
        if (path := held.file()) is not None:
            return FileResponse(path, media_type=_KINDS["nii.gz"], filename=f"{held.name[:8]}.nii.gz")
        return file_of(held.name, "nii.gz", lambda path: write_image(path, held.read()))

    return await held.image_line.run(written)


@router.get("/sessions/{name}/labels", response_class=FileResponse)
async def labels(held: ASession, format: Format = "nii.gz") -> Response:
    """Labels with everything in them that was asked for, on exactly the image's grid; waits for them.

    Of a DICOM series also as SEG (`dcm`) and as RT structure set (`rtstruct`), which refer to its images; refused for
    other scans, and where the server cannot write them.
    """

    def written(seconds: float) -> Response:
        return file_of(held.name, FORMATS[format], lambda path: held.save(path, seconds))

    return await held.line.run(written)


@router.get("/sessions/{name}/log", response_class=FileResponse)
async def log(held: ASession) -> Response:
    """The prompt log, as `s2vnet interact --log` reads and writes it."""

    def written(seconds: float) -> Response:
        return file_of(held.name, "json", lambda path: held.use(lambda session: session.save_log(path), seconds))

    return await held.line.run(written)


@router.get("/sessions/{name}/suggestion")
async def suggestion(held: ASession) -> Suggestion | None:
    """The slice where the network is least sure, away from prompts; null where there is none."""
    found = await held.line.run(lambda seconds: held.use(lambda session: session.next_slice_to_check(), seconds))
    return None if found is None else Suggestion(axis=found[0], index=found[1])


@router.websocket("/sessions/{name}/live")
async def live(socket: WebSocket, name: str) -> None:
    """Operations in; states, problems and blocks of labels out, in the order in which they came about."""
    await socket.accept()
    try:
        held = await anyio.to_thread.run_sync(socket.app.state.store.get, name)
    except InputError as error:
        await socket.send_text(Problem(detail=str(error)).model_dump_json())
        return await socket.close(TRY_AGAIN_LATER if isinstance(error, Full) else 1000)
    loop, messages = asyncio.get_running_loop(), asyncio.Queue[str | bytes | None](MOST_MESSAGES)

    def put(message: str | bytes) -> None:
        try:
            messages.put_nowait(message)
        except asyncio.QueueFull:
            while not messages.empty():
                messages.get_nowait()
            messages.put_nowait(None)

    def listener(message: str | bytes) -> None:
        with contextlib.suppress(RuntimeError):  # the loop ends before a thread does
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
            problem = await anyio.to_thread.run_sync(_ask, held, message.get("text") or "")
            if problem is not None:
                put(problem)

    listening = held.listening(listener)
    await anyio.to_thread.run_sync(listening.__enter__)  # packs all labels
    try:
        tasks = [asyncio.create_task(send()), asyncio.create_task(receive())]
        done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in left:
            task.cancel()
        for task in done:
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                task.result()
    finally:
        await anyio.to_thread.run_sync(listening.__exit__, None, None, None)


def _ask(held: SessionWorker, text: str) -> str | None:
    """Take an operation; the problem with it, if there is one."""
    try:
        if len(text) > MOST_BYTES_ASKED:
            raise InputError("more than an operation can be")
        held.ask(_operations.validate_json(text))
    except ValidationError as error:
        return Problem(detail=f"no operation: {first_error(error)}").model_dump_json()
    except InputError as error:
        return Problem(detail=str(error)).model_dump_json()
    return None


def file_of(name: str, ending: str, write: Callable[[Path], None]) -> FileResponse:
    """A file made for this answer alone."""
    folder = tempfile.TemporaryDirectory(prefix="s2vnet-")
    path = Path(folder.name) / f"{name[:8]}.{ending}"
    try:
        write(path)
    except BaseException:
        folder.cleanup()
        raise
    kind = _KINDS.get(ending, "application/octet-stream")
    return FileResponse(path, media_type=kind, filename=path.name, background=BackgroundTask(folder.cleanup))
