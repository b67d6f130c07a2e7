"""ITK-SNAP's deep learning protocol, so that it connects unchanged (https://github.com/pyushkevich/itksnap-dls).

Read from its server, versions 0.0.1 to 0.1.6, and from ITK-SNAP (https://github.com/pyushkevich/itksnap,
`GUI/Model/DeepLearningSegmentationModel.cxx`, `Logic/WorkspaceAPI/RESTClient.cxx`). It knows a host and a port and asks
for ``http://HOST:PORT/status``, so these routes lie at the root. Arrays are gzipped float32, i fastest, with ITK's grid
(LPS, mm) as JSON; what comes back is the object alone, a byte a voxel. Of its labels ITK-SNAP tells nothing but that
another one begins. So the class comes from the model's name, ``s2vnet-liver``; of ``s2vnet`` the first positive prompt
says it: the class that it lies on, or the most probable one there.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import math
import re
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Depends, Form, HTTPException, Query, Request, UploadFile
from pydantic import BaseModel, Field, ValidationError

from s2vnet._version import __version__
from s2vnet.errors import InputError
from s2vnet.io.geometry import Geometry, Volume
from s2vnet.prompts import Entry, Point, Voxel
from s2vnet.server.api import AStore
from s2vnet.server.protocols.drawings import entry_of, voxels_of
from s2vnet.server.request_queue import RequestQueue
from s2vnet.server.scan_library import Full
from s2vnet.server.schemas import Add, Step
from s2vnet.server.security import FOREIGN
from s2vnet.server.session_store import SessionStore
from s2vnet.utils.validation import first_error

PROTOCOL = "0.1.6"
"""Version of itksnap-dls that is spoken here; ITK-SNAP wants numbers, 0.1.0 or more."""
ANY = "s2vnet"
_SUCCESS = {"status": "success"}
_COMPRESSION = 1


class Grid(BaseModel):
    """What comes with an array: its sizes along i, j, k, and ITK's grid (LPS, mm)."""

    dimensions: tuple[
        Annotated[int, Field(gt=0)],
        Annotated[int, Field(gt=0)],
        Annotated[int, Field(gt=0)],
    ]
    components_per_pixel: int = Field(default=1, gt=0)
    component_type: Literal["float32"] = "float32"
    spacing: tuple[float, float, float] = (1, 1, 1)
    origin: tuple[float, float, float] = (0, 0, 0)
    direction: tuple[float, float, float, float, float, float, float, float, float] = (1, 0, 0, 0, 1, 0, 0, 0, 1)
    """Row by row; columns are where the axes point."""

    @property
    def geometry(self) -> Geometry:
        """The same as ours. Raises InputError for a grid that is none."""
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(self.direction, (3, 3)) * np.array(self.spacing)
        affine[:3, 3] = self.origin
        return Geometry.from_lps(self.dimensions, affine)


class Client:
    """One ITK-SNAP: the session of its image, and the class that it sees of it."""

    def __init__(self, class_id: int | None) -> None:
        self.line = RequestQueue()
        """Where all requests wait that change it or its session, one after the other."""
        self.asked = time.monotonic()
        self.session = ""
        self.image: Path | None = None
        self.shape: Voxel = (1, 1, 1)
        self._fixed = self.class_id = class_id

    def reset(self) -> None:
        """A new object."""
        self.class_id = self._fixed

    def interact(
        self, store: SessionStore, make: Callable[[int], Entry], voxels: npt.ArrayLike, positive: bool, seconds: float
    ) -> dict[str, Any]:
        """Take a prompt; the object that it gives, i fastest, within so many seconds."""
        if not self.session:
            raise InputError("no image yet; upload_raw comes first")
        held = store.get(self.session)
        class_id = self.class_id
        if class_id is None:
            class_id = held.use(lambda session: session.likely_class(voxels), seconds)
        held.ask(Add(entries=(make(class_id),)))
        found = held.wait(seconds).labels == class_id
        if positive:
            self.class_id = class_id
        packed = gzip.compress(found.astype(np.int8).tobytes(order="F"), _COMPRESSION, mtime=0)
        return {**_SUCCESS, "result": base64.b64encode(packed).decode()}


class Clients:
    """All clients of this protocol. It has no heartbeat: who is silent gives way when all places are taken."""

    def __init__(self, store: SessionStore) -> None:
        self.store = store
        self._lock = threading.Lock()
        self._clients: dict[str, Client] = {}

    def start(self, class_id: int | None) -> str:
        """Name of a place for a client. Raises Full when there is none."""
        settings, over = self.store.settings, None
        with self._lock:
            if len(self._clients) >= settings.max_sessions:
                name = min(self._clients, key=lambda n: self._clients[n].asked)
                if time.monotonic() - self._clients[name].asked <= settings.lease_s:
                    raise Full(f"all {settings.max_sessions} sessions are taken; try again in a while")
                over = self._clients.pop(name)
            made = uuid.uuid4().hex
            self._clients[made] = Client(class_id)
        if over is not None:
            self.forget(over)
        return made

    def get(self, name: str) -> Client:
        """A client by its name. Raises InputError for none."""
        with self._lock:
            if name not in self._clients:
                raise InputError("no such session; connect to the server again")
            client = self._clients[name]
            client.asked = time.monotonic()
            return client

    def end(self, name: str) -> bool:
        """Give a place back; whether there was one."""
        with self._lock:
            client = self._clients.pop(name, None)
        if client is not None:
            self.forget(client)
        return client is not None

    def forget(self, client: Client) -> None:
        """End a client's session, and delete the image that it sent."""
        with contextlib.suppress(InputError):
            self.store.end(client.session)
        if client.image is not None:
            client.image.unlink(missing_ok=True)
        client.session, client.image = "", None


def model_names(classes: Mapping[int, str]) -> dict[str, int | None]:
    """Names by which ITK-SNAP asks for a class; it puts them into an address as they are."""
    names: dict[str, int | None] = {ANY: None}
    for class_id, name in classes.items():
        if class_id:
            plain = f"{ANY}-{re.sub('[^A-Za-z0-9._]+', '-', name).strip('-').lower() or class_id}"
            names[plain if plain not in names else f"{plain}-{class_id}"] = class_id
    return names


def _clients(request: Request) -> Clients:
    clients: Clients = request.app.state.itksnap
    return clients


def _client(request: Request, name: str) -> Client:
    return _clients(request).get(name)


def _programs_only(request: Request) -> None:
    """Requests that change something are GET here, which a page from elsewhere can send; browsers say that it did."""
    if "sec-fetch-site" in request.headers:
        raise HTTPException(FOREIGN, "this address is for ITK-SNAP, not for a browser")


AClient = Annotated[Client, Depends(_client)]
AllClients = Annotated[Clients, Depends(_clients)]
router = APIRouter(include_in_schema=False, dependencies=[Depends(_programs_only)])


@router.get("/status")
def status() -> dict[str, str]:
    """That the server answers."""
    return {"status": "ok", "version": PROTOCOL, "server": f"s2vnet {__version__}"}


@router.get("/v2/models")
def models(store: AStore) -> dict[str, Any]:
    """One model by several names: of all classes, and of each."""
    common = {
        "channels": [len(store.segmenter.plan.channels)],
        "dimensions": 3,
        "interactions": ["point", "scribble", "lasso"],
    }
    return {"models": [{"id": name, **common} for name in model_names(store.segmenter.class_names)]}


@router.get("/start_session")
@router.get("/v2/start_session/{model}")
def start_session(clients: AllClients, model: str = ANY) -> dict[str, str]:
    """A place for a client, by whose name everything else asks."""
    known = model_names(clients.store.segmenter.class_names)
    if model not in known:
        raise InputError(f"no such model {model!r}; there are {', '.join(known)}")
    return {"session_id": clients.start(known[model])}


@router.post("/upload_raw/{name}")
@router.post("/v2/upload_raw/{name}")
async def upload_raw(
    clients: AllClients, client: AClient, file: UploadFile, metadata: Annotated[str, Form()]
) -> dict[str, str]:
    """An image; answered when it has been encoded and segmented."""
    grid = _grid(metadata)
    await client.line.run(lambda seconds: _open(clients, client, file.file, grid, seconds))
    return {"message": "image received"}


@router.get("/v2/process_point_interaction/{name}")
async def point(
    store: AStore,
    client: AClient,
    point: Annotated[list[int], Query(min_length=3, max_length=3)],
    foreground: bool = False,
) -> dict[str, Any]:
    """This voxel is, or is not, of the object."""
    i, j, k = point

    def entry(class_id: int) -> Entry:
        return Point(class_id=class_id, positive=foreground, voxel=(i, j, k))

    return await client.line.run(lambda seconds: client.interact(store, entry, [point], foreground, seconds))


@router.get("/process_point_interaction/{name}")
async def point_by_axes(
    store: AStore, client: AClient, x: int, y: int, z: int, foreground: bool = False
) -> dict[str, Any]:
    """The same in the older form."""
    return await point(store, client, [x, y, z], foreground)


@router.post("/process_scribble_interaction/{name}")
@router.post("/process_lasso_interaction/{name}")
@router.post("/v2/process_scribble_interaction/{name}")
@router.post("/v2/process_lasso_interaction/{name}")
async def drawing(
    request: Request,
    store: AStore,
    client: AClient,
    file: UploadFile,
    metadata: Annotated[str, Form()],
    foreground: bool = False,
) -> dict[str, Any]:
    """Voxels above 0 of an array of the image's sizes are, or are not, of the object."""
    grid, scribble = _grid(metadata), "scribble" in request.url.path
    if grid.components_per_pixel != 1:
        raise InputError("a drawing has one component")

    def drawn(seconds: float) -> dict[str, Any]:
        if client.session and grid.dimensions != client.shape:
            raise InputError(f"a drawing of {grid.dimensions} voxels on an image of {client.shape}")
        voxels = voxels_of(_voxels(file.file, grid, store.settings.max_voxels)[0] > 0)

        def entry(class_id: int) -> Entry:
            return entry_of(voxels, client.shape, class_id, foreground, scribble)

        return client.interact(store, entry, voxels, foreground, seconds)

    return await client.line.run(drawn)


@router.get("/reset_interactions/{name}")
@router.get("/v2/reset_interactions/{name}")
async def reset_interactions(store: AStore, client: AClient) -> dict[str, str]:
    """The next prompt begins a new object."""

    def begun(_: float) -> dict[str, str]:
        if client.session:
            store.get(client.session).ask(Step(op="reset"))
        client.reset()
        return _SUCCESS

    return await client.line.run(begun)


@router.get("/end_session/{name}")
@router.get("/v2/end_session/{name}")
def end_session(clients: AllClients, name: str) -> dict[str, str]:
    """Give the place back; also one that is over."""
    return {"message": "Session ended" if clients.end(name) else "Invalid session"}


def _open(clients: Clients, client: Client, packed: IO[bytes], grid: Grid, seconds: float) -> None:
    """Another image for a client. Raises InputError for one that does not fit the model, and Full for want of room."""
    store = clients.store
    wanted = len(store.segmenter.plan.channels)
    if grid.components_per_pixel != wanted:
        raise InputError(f"an image of {grid.components_per_pixel} components, where the model takes {wanted}")
    volume = Volume(_voxels(packed, grid, store.settings.max_voxels), grid.geometry)
    clients.forget(client)
    held = store.open_sent(volume)
    client.session, client.image, client.shape = held.name, held.path, grid.dimensions
    client.reset()
    held.wait(seconds)


def _grid(metadata: str) -> Grid:
    try:
        return Grid.model_validate_json(metadata)
    except ValidationError as error:
        raise InputError(f"metadata: {first_error(error, 'JSON')}") from error


def _voxels(packed: IO[bytes], grid: Grid, most: int) -> npt.NDArray[np.float32]:
    """An array (C, I, J, K); no more of it is unpacked than its grid says. Raises InputError for another one."""
    i, j, k = grid.dimensions
    if i * j * k > most:
        raise InputError(f"{i * j * k} voxels, more than the {most} that this server opens; crop the scan")
    found = np.empty((k, j, i, grid.components_per_pixel), "<f4")
    raw, done = found.reshape(-1).view(np.uint8).data, 0
    try:
        with gzip.GzipFile(fileobj=packed, mode="rb") as file:
            while done < len(raw) and (n := file.readinto(raw[done:])):
                done += n
            more = file.read(1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"the array is no gzip data, or damaged ({error})") from error
    if done < len(raw) or more:
        size = math.prod(found.shape)
        raise InputError(f"the array holds {'more' if more else 'less'} than the {size} float32 that metadata says")
    return found.transpose(3, 2, 1, 0).astype(np.float32, copy=False)
