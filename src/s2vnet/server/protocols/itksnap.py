"""ITK-SNAP's deep learning protocol, so that it connects unchanged (https://github.com/pyushkevich/itksnap-dls).

Follows its server, versions 0.0.1 to 0.1.6, and ITK-SNAP (https://github.com/pyushkevich/itksnap,
`GUI/Model/DeepLearningSegmentationModel.cxx`, `Logic/WorkspaceAPI/RESTClient.cxx`). ITK-SNAP is configured with host
and port and requests ``http://HOST:PORT/status``, so these routes are at the root. Arrays are gzipped float32, Fortran
order, with ITK's grid (LPS, mm) as JSON; responses contain a binary mask of one object. ITK-SNAP does not send which
label is selected, only a reset when it changes. So a class is given by the model's name, ``s2vnet-liver``; with
``s2vnet`` each object is one of its own, which its prompts alone segment. On a server of several models, ``s2vnet``
chooses the one that fits the image, and the others are ``s2vnet-MODEL`` and ``s2vnet-MODEL-CLASS``.
"""

from __future__ import annotations

import base64
import gzip
import math
import re
import time
import zlib
from typing import IO, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Depends, Form, HTTPException, Query, Request, UploadFile
from pydantic import BaseModel, Field, ValidationError

from s2vnet._version import __version__
from s2vnet.errors import InputError, NotFoundError
from s2vnet.io.geometry import Geometry, Volume
from s2vnet.prompts import Point, Prompt
from s2vnet.server.api import StoreDep
from s2vnet.server.client_watch import ClientWatch
from s2vnet.server.model_library import ModelLibrary
from s2vnet.server.protocols.drawings import drawing_prompt, drawn_voxels
from s2vnet.server.protocols.one_object_client import ObjectClient, ObjectClients, Target
from s2vnet.server.security import FORBIDDEN
from s2vnet.utils.validation_errors import first_error

PROTOCOL = "0.1.6"
"""Implemented version of itksnap-dls; ITK-SNAP requires 0.1.0 or later."""
ANY_CLASS = "s2vnet"
"""Name of the model for any object; prefix of the other names."""
_SUCCESS = {"status": "success"}
_COMPRESSION_LEVEL = 1


class Grid(BaseModel):
    """Metadata of an array: its shape (I, J, K) and ITK's grid (LPS, mm)."""

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
    """Matrix in row-major order; its columns are the directions of the axes."""

    @property
    def geometry(self) -> Geometry:
        """Convert to a Geometry. Raises InputError for an invalid grid."""
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(self.direction, (3, 3)) * np.array(self.spacing)
        affine[:3, 3] = self.origin
        return Geometry.from_lps(self.dimensions, affine)


class SnapClient(ObjectClient):
    """An ITK-SNAP client."""

    upload_route = "upload_raw"

    def open_array(self, packed: IO[bytes], grid: Grid, seconds: float, watch: ClientWatch) -> None:
        """Replace the image by a packed array, and wait until it is encoded.

        Raises:
            InputError: damaged, too large, or no model takes its channels.
            CapacityError: as :meth:`ObjectClient.replace_image`.
        """
        settings = self._store.settings
        models = self.models(grid.components_per_pixel)
        if models.only is not None and math.prod(grid.dimensions) <= settings.max_voxels:  # read_array() refuses others
            self._store.memory.require(models.only.segmenter.opening_nbytes(grid.geometry))
        with self._store.memory.unpacking:
            self.replace_image(Volume(read_array(packed, grid, settings.max_voxels), grid.geometry))
        self.wait_open(seconds, watch)

    def interact(self, prompt: Prompt, seconds: float, client: ClientWatch) -> dict[str, Any]:
        """Add a prompt and return the response with the object's mask.

        Args:
            prompt: of the object's class.
            seconds: time limit.
            client: that waits; without it any longer, nothing is added.
        """
        self.add_prompt(self.worker(), prompt)
        mask = self.object_mask(seconds, client)
        packed = gzip.compress(mask.astype(np.int8).tobytes(order="F"), _COMPRESSION_LEVEL, mtime=0)
        return {**_SUCCESS, "result": base64.b64encode(packed).decode()}


class SnapClients(ObjectClients[SnapClient]):
    """All clients of this protocol. Since there are no heartbeats, an idle one expires when the maximum is reached."""

    def get(self, name: str) -> SnapClient:
        """Return a client by its name. Raises InputError for an unknown one."""
        with self._lock:
            if name not in self._clients:
                raise NotFoundError("no such session; connect to the server again")
            client = self._clients[name]
            client.last_active = time.monotonic()
            return client

    def _expired(self, now: float) -> list[SnapClient]:
        settings = self.store.settings
        if len(self._clients) < settings.max_sessions:
            return []
        oldest = min(self._clients.values(), key=lambda client: client.last_active)
        return [oldest] if now - oldest.last_active > settings.lease_s else []


def model_names(models: ModelLibrary) -> dict[str, Target]:
    """Return model names with what they segment; ITK-SNAP inserts names into URLs without escaping them."""
    names = {ANY_CLASS: Target()}
    for model in models:
        prefix = ANY_CLASS
        if models.only is None:
            prefix = f"{ANY_CLASS}-{model.name}"
            names[prefix] = Target(model)
        for class_id, name in model.classes.items():
            if class_id:
                plain = f"{prefix}-{re.sub('[^A-Za-z0-9._]+', '-', name).strip('-').lower() or class_id}"
                names[plain if plain not in names else f"{plain}-{class_id}"] = Target(model, class_id)
    return names


def _clients(request: Request) -> SnapClients:
    clients: SnapClients = request.app.state.itksnap
    return clients


def _client(request: Request, name: str) -> SnapClient:
    return _clients(request).get(name)


def _refuse_browsers(request: Request) -> None:
    """Refuse requests from browsers: GET requests change sessions here, and any web page can send them."""
    if "sec-fetch-site" in request.headers:
        raise HTTPException(FORBIDDEN, "this address is for ITK-SNAP, not for a browser")


ClientDep = Annotated[SnapClient, Depends(_client)]
ClientsDep = Annotated[SnapClients, Depends(_clients)]
router = APIRouter(include_in_schema=False, dependencies=[Depends(_refuse_browsers)])


@router.get("/status")
def status() -> dict[str, str]:
    """Report that the server runs, and its version."""
    return {"status": "ok", "version": PROTOCOL, "server": f"s2vnet {__version__}"}


@router.get("/v2/models")
def models(store: StoreDep) -> dict[str, Any]:
    """List the models under several names: for any object, and for each class."""
    common = {"dimensions": 3, "interactions": ["point", "scribble", "lasso"]}
    listed = []
    for name, (model, _) in model_names(store.models).items():
        channels = {each.channels for each in (store.models if model is None else [model])}
        listed.append({"id": name, "channels": sorted(channels), **common})
    return {"models": listed}


@router.get("/start_session")
@router.get("/v2/start_session/{model}")
def start_session(clients: ClientsDep, model: str = ANY_CLASS) -> dict[str, str]:
    """Add a client and return its name, which is part of all its other requests."""
    known = model_names(clients.store.models)
    if model not in known:
        raise NotFoundError(f"no such model {model!r}; there are {', '.join(known)}")
    return {"session_id": clients.add(SnapClient(clients.store, known[model])).name}


@router.post("/upload_raw/{name}")
@router.post("/v2/upload_raw/{name}")
async def upload_raw(
    request: Request, client: ClientDep, file: UploadFile, metadata: Annotated[str, Form()]
) -> dict[str, str]:
    """Receive an image; the response is sent when it is encoded and segmented."""
    grid = parse_grid(metadata)
    watch = ClientWatch(request)
    await client.queue.run(lambda seconds: client.open_array(file.file, grid, seconds, watch), watch)
    return {"message": "image received"}


@router.get("/v2/process_point_interaction/{name}")
async def point(
    request: Request,
    client: ClientDep,
    point: Annotated[list[int], Query(min_length=3, max_length=3)],
    foreground: bool = False,
) -> dict[str, Any]:
    """Add a point inside or outside the object."""
    i, j, k = point
    prompt = Point(class_id=client.class_id, positive=foreground, voxel=(i, j, k))
    watch = ClientWatch(request)
    return await client.queue.run(lambda seconds: client.interact(prompt, seconds, watch), watch)


@router.get("/process_point_interaction/{name}")
async def point_by_axes(
    request: Request, client: ClientDep, x: int, y: int, z: int, foreground: bool = False
) -> dict[str, Any]:
    """Add a point in the protocol's older form."""
    return await point(request, client, [x, y, z], foreground)


@router.post("/process_scribble_interaction/{name}")
@router.post("/process_lasso_interaction/{name}")
@router.post("/v2/process_scribble_interaction/{name}")
@router.post("/v2/process_lasso_interaction/{name}")
async def drawing(
    request: Request,
    store: StoreDep,
    client: ClientDep,
    file: UploadFile,
    metadata: Annotated[str, Form()],
    foreground: bool = False,
) -> dict[str, Any]:
    """Add voxels above 0 of an array of the image's shape, inside or outside the object."""
    grid, scribble, watch = parse_grid(metadata), "scribble" in request.url.path, ClientWatch(request)
    if grid.components_per_pixel != 1:
        raise InputError("a drawing has one component")

    def interact(seconds: float) -> dict[str, Any]:
        if client.session and grid.dimensions != client.shape:
            raise InputError(f"a drawing of {grid.dimensions} voxels on an image of {client.shape}")
        voxels = drawn_voxels(read_array(file.file, grid, store.settings.max_voxels)[0] > 0)
        prompt = drawing_prompt(voxels, client.shape, client.class_id, foreground, scribble)
        return client.interact(prompt, seconds, watch)

    return await client.queue.run(interact, watch)


@router.get("/reset_interactions/{name}")
@router.get("/v2/reset_interactions/{name}")
async def reset_interactions(client: ClientDep) -> dict[str, str]:
    """Remove all prompts; the next one begins a new object."""
    await client.queue.run(lambda _: client.reset_prompts())
    return _SUCCESS


@router.get("/end_session/{name}")
@router.get("/v2/end_session/{name}")
def end_session(clients: ClientsDep, name: str) -> dict[str, str]:
    """Remove a client; also one that has expired."""
    return {"message": "Session ended" if clients.remove(name) else "Invalid session"}


def parse_grid(metadata: str) -> Grid:
    """Parse an array's metadata. Raises InputError when it is invalid."""
    try:
        return Grid.model_validate_json(metadata)
    except ValidationError as error:
        raise InputError(f"metadata: {first_error(error, 'JSON')}") from error


def read_array(packed: IO[bytes], grid: Grid, max_voxels: int) -> npt.NDArray[np.float32]:
    """Decompress an array (C, I, J, K), at most to its grid's size. Raises InputError when the sizes differ."""
    i, j, k = grid.dimensions
    if i * j * k > max_voxels:
        raise InputError(f"{i * j * k} voxels, more than the {max_voxels} that this server opens; crop the scan")
    array = np.empty((k, j, i, grid.components_per_pixel), "<f4")
    raw, done = array.reshape(-1).view(np.uint8).data, 0
    try:
        with gzip.GzipFile(fileobj=packed, mode="rb") as file:
            while done < len(raw) and (n := file.readinto(raw[done:])):
                done += n
            surplus = file.read(1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"the array is not gzip data, or damaged ({error})") from error
    if done < len(raw) or surplus:
        size = math.prod(array.shape)
        raise InputError(f"the array holds {'more' if surplus else 'less'} than the {size} float32 that metadata says")
    return array.transpose(3, 2, 1, 0).astype(np.float32, copy=False)
