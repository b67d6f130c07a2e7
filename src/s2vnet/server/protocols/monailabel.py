"""MONAI Label's REST forms, so that 3D Slicer's and OHIF's plugins connect unchanged.

Read from its server and its client (https://github.com/Project-MONAI/MONAILabel, `endpoints`, `client/client.py`). Each
request there tells everything anew: an `infer` carries all clicks so far. Here the scan stays encoded, and the clicks
become the log of its session, so the second one is quick. One model has two names: ``automatic`` of type
`segmentation`, and ``clicks`` of type `deepedit`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal
from weakref import WeakValueDictionary

import numpy as np
from anyio import to_thread
from fastapi import APIRouter, Depends, Form, HTTPException, Request, UploadFile
from fastapi.responses import FileResponse, PlainTextResponse, Response
from pydantic import BaseModel, ConfigDict

from s2vnet._version import __version__
from s2vnet.errors import InputError
from s2vnet.inference.label_writers import write_result
from s2vnet.io.files import count_voxels, read_geometry, read_labels, write_labels
from s2vnet.io.geometry import Geometry, LabelMap
from s2vnet.prompts import Point
from s2vnet.server.api import AStore, file_of
from s2vnet.server.request_queue import RequestQueue
from s2vnet.server.scan_library import SENT, Scans
from s2vnet.server.schemas import MOST_ENTRIES
from s2vnet.server.session_store import TRAINING, SessionStore
from s2vnet.server.session_worker import SessionWorker
from s2vnet.server.training_jobs import LabelledScan, TrainingJobs
from s2vnet.server.uncertainty_ranking import UncertaintyRanking
from s2vnet.utils.json_io import parse_json

AUTOMATIC, CLICKS = "automatic", "clicks"
LABEL_ENDING = ".nii.gz"
ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")
TAGS = ("final", "original")
UNCERTAINTY = "uncertainty"
STRATEGIES = {
    "first": "first scan without a final label",
    "random": "a random one of them",
    UNCERTAINTY: "the one of them that the network is least sure of, so far as it has seen them",
}
TRAINER = "s2vnet"
OPTIONS = {
    *(
        "client_id",
        "device",
        "model",
        "image",
        "label",
        "label_info",
        "label_names",
        "result_extension",
        "result_dtype",
    ),
    *(
        "result_compress",
        "result_write_to_file",
        "restore_label_idx",
        "save_label",
        "label_tag",
        "session",
        "description",
    ),
    *("largest_cc", "cache_transforms", "cache_transforms_in_memory", "cache_transforms_ttl", "timeout", "logging"),
}
"""Parameters of an `infer` that are no class; what they ask for is done in any case, or does not apply."""


class Pool:
    """A session per scan, and who works with it: answers to requests that tell everything never mix."""

    def __init__(self, store: SessionStore) -> None:
        settings = store.settings
        self.store, self.labels = store, Labels(settings.state / "labels", store.scans)
        self.doubts = UncertaintyRanking(store)
        self.trainer = TrainingJobs(settings.state / TRAINING, store.segmenter, settings.model, settings.device)
        self.training_line = RequestQueue()
        """Where requests wait for a training to end."""
        self._names: dict[str, str] = {}
        self._lines: WeakValueDictionary[str, RequestQueue] = WeakValueDictionary()

    def line(self, scan: str) -> RequestQueue:
        """Where requests wait that work with a scan."""
        return self._lines.setdefault(scan, RequestQueue())

    @contextmanager
    def taken(self, scan: str) -> Iterator[SessionWorker]:
        """The session of a scan, in its :meth:`line` only. Raises InputError for no such scan."""
        self.store.scans.find(scan)
        try:
            held = self.store.get(self._names.get(scan, ""))
        except InputError:
            held = self.store.open(scan)
            self._names[scan] = held.name
        try:
            yield held
        except InputError:
            if held.state().status == "failed":
                self.forget(scan)
            raise

    def labelled(self) -> list[LabelledScan]:
        """Scans in the data folder that have a final label."""
        scans = [scan.id for scan in self.store.scans.listed() if "final" in self.labels.tags(scan.id)]
        return [LabelledScan(self.store.scans.find(scan), self.labels.path("final", scan)) for scan in scans]

    def close(self) -> None:
        """End what goes on in the background."""
        self.doubts.close()
        self.trainer.close()

    def forget(self, scan: str) -> None:
        """End the session of a scan."""
        with contextlib.suppress(InputError):
            self.store.end(self._names.pop(scan, ""))


class Labels:
    """Labels that clients have saved, by tag and scan."""

    def __init__(self, folder: Path, scans: Scans) -> None:
        self._folder, self._scans = folder, scans

    def path(self, tag: str, scan: str) -> Path:
        """Where a label lies, or would; scans of one name in two data folders have labels of their own.

        Raises:
            InputError: another tag than `final` and `original`, or no such scan.
        """
        if tag not in TAGS:
            raise InputError(f"no tag {tag!r}; labels are {' or '.join(TAGS)}")
        place = str(self._scans.find(scan).resolve())
        return self._folder / tag / (uuid.uuid5(uuid.NAMESPACE_URL, place).hex + LABEL_ENDING)

    def tags(self, scan: str) -> list[str]:
        """Of the labels that a scan has."""
        return [tag for tag in TAGS if self.path(tag, scan).exists()]

    def save(self, tag: str, scan: str, labels: LabelMap) -> None:
        """Keep a label; an earlier one of the tag is replaced."""
        path = self.path(tag, scan)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_labels(path, labels)


def _pool(request: Request) -> Pool:
    pool: Pool = request.app.state.monailabel
    return pool


APool = Annotated[Pool, Depends(_pool)]
router = APIRouter(prefix="/monailabel", include_in_schema=False)


@router.get("/info/")
def info(store: AStore, pool: APool) -> dict[str, Any]:
    """What there is. `config` is left out at the top: Slicer refuses servers that have one."""
    names = {name: value for value, name in store.segmenter.class_names.items()}
    common = {"dimension": 3, "labels": names, "config": {}, "version": __version__}
    return {
        "name": "s2vnet",
        "description": "S2VNet: all classes at once, automatic and by clicks",
        "version": __version__,
        "labels": list(names),
        "models": {
            AUTOMATIC: {"type": "segmentation", "description": "all classes", **common},
            CLICKS: {"type": "deepedit", "description": "all classes, corrected by clicks", **common},
        },
        "trainers": {TRAINER: {"description": "all classes, from this model on", "config": pool.trainer.settings}},
        "strategies": {name: {"description": text} for name, text in STRATEGIES.items()},
        "scoring": {},
        "train_stats": {TRAINER: trained} if (trained := pool.trainer.statistics()) else {},
        "datastore": _statistics(pool),
    }


@router.post("/infer/{model}")
async def infer(
    pool: APool,
    model: Literal["automatic", "clicks"],
    image: str = "",
    session_id: str = "",
    params: Annotated[str, Form()] = "{}",
    file: UploadFile | None = None,
    output: Literal["image", "json", "all", "dicom_seg"] | None = None,
) -> Response:
    """Labels of a scan, with the clicks of `params`: ``{"spleen": [[i, j, k], ...], "background": [...]}``."""
    asked, start = _json(params), time.monotonic()
    names = pool.store.segmenter.class_names
    points = _points(asked, names) if model == CLICKS else ()
    once = None if session_id else file
    scan = await to_thread.run_sync(_scan_asked, pool, image, session_id, once)

    def answered(seconds: float) -> Response:
        path = pool.store.scans.find(scan)
        try:
            labels = _segmented(pool, scan, points, seconds)
            if asked.get("save_label"):
                pool.labels.save(str(asked.get("label_tag", "original")), scan, labels)
            found = {"label_names": {name: k for k, name in names.items()}, "latency": time.monotonic() - start}
            with _called(pool.store.scans.name(scan).name, path):
                return _answer(path, labels, output, asked, found, bool(points))
        finally:
            if once is not None:
                pool.forget(scan)
                path.unlink(missing_ok=True)

    return await pool.line(scan).run(answered)


@router.put("/session/")
def create_session(pool: APool, files: list[UploadFile]) -> dict[str, Any]:
    """A scan that is sent once and asked about often."""
    if len(files) != 1:
        raise InputError("a session takes one file; send a DICOM series as a .zip")
    name = pool.store.scans.receive(files[0].filename or "", files[0].file).id.removeprefix(SENT)
    return {"session_id": name, "session_info": _session_info(pool, name)}


@router.get("/session/{name}")
def get_session(pool: APool, name: str) -> dict[str, Any]:
    """Whether a session is still there."""
    return _session_info(pool, name)


@router.delete("/session/{name}")
def remove_session(pool: APool, name: str) -> dict[str, Any]:
    """Forget what was sent."""
    path = _sent(pool, name)
    pool.forget(SENT + name)
    path.unlink(missing_ok=True)
    return {}


@router.get("/datastore/")
def datastore(pool: APool, output: Literal["stats", "all", "train"] = "stats") -> Any:
    """Counts, everything, or the scans that have a final label."""
    if output == "stats":
        return _statistics(pool)
    scans = [scan.id for scan in pool.store.scans.listed()]
    if output == "train":
        return [{"image": scan, "label": scan} for scan in scans if "final" in pool.labels.tags(scan)]
    tagged = {scan: {tag: {"ext": LABEL_ENDING, "info": {}} for tag in pool.labels.tags(scan)} for scan in scans}
    return {"name": "s2vnet", "objects": {scan: {"image": {"info": {}}, "labels": tagged[scan]} for scan in scans}}


@router.put("/datastore/")
@router.put("/datastore/image")
def add_image(pool: APool, file: UploadFile) -> dict[str, str]:
    """Send a scan. Its name here is not the client's, for names tell of patients."""
    return {"image": pool.store.scans.receive(file.filename or "", file.file).id}


@router.head("/datastore/image")
@router.get("/datastore/image")
def image(pool: APool, image: str) -> Response:
    """A scan, as its file is."""
    path = pool.store.scans.find(image)
    if path.is_dir():
        raise InputError("a DICOM folder cannot be sent as one file; open it where it lies")
    return FileResponse(path, filename=f"image{''.join(path.suffixes[-2:])}")


@router.get("/datastore/image/info")
def image_info(pool: APool, image: str) -> dict[str, Any]:
    """A scan's grid."""
    geometry = read_geometry(pool.store.scans.find(image))
    return {"shape": geometry.shape, "spacing": geometry.spacing, "labels": pool.labels.tags(image)}


@router.put("/datastore/label")
def save_label(
    pool: APool, image: str, label: UploadFile, params: Annotated[str, Form()] = "{}", tag: str = "final"
) -> dict[str, str]:
    """Keep a label of a scan. OHIF's ``.bin`` is a byte a voxel, i fastest; other files have the scan's grid."""
    _json(params)
    geometry = read_geometry(pool.store.scans.find(image))
    name = (label.filename or "").lower()
    if name.endswith(".bin"):
        raw = label.file.read(int(np.prod(geometry.shape)) + 1)
        if len(raw) != np.prod(geometry.shape):
            raise InputError(
                f"label of {len(raw)} bytes for {int(np.prod(geometry.shape))} voxels; send a byte a voxel"
            )
        labels = LabelMap(np.frombuffer(raw, np.uint8).reshape(geometry.shape, order="F"), geometry)
    else:
        sent, path = pool.store.scans.new(name)
        try:
            pool.store.scans.write(path, label.file)
            labels = _sent_label(pool.store.scans.find(sent.id), geometry)
        finally:
            path.unlink(missing_ok=True)
    pool.labels.save(tag or "final", image, labels)
    return {"image": image, "label": image}


@router.head("/datastore/label")
@router.get("/datastore/label")
def label(pool: APool, label: str, tag: str = "final") -> Response:
    """A label that was saved."""
    return FileResponse(_saved(pool, label, tag), media_type="application/gzip", filename=f"label{LABEL_ENDING}")


@router.get("/datastore/label/info")
def label_info(pool: APool, label: str, tag: str = "final") -> dict[str, Any]:
    """The classes that a label has."""
    return {"labels": np.unique(read_labels(_saved(pool, label, tag)).data).tolist()}


class Asked(BaseModel):
    """Of active learning; what else clients send is not needed."""

    model_config = ConfigDict(extra="ignore")

    client_id: str | None = None


@router.post("/activelearning/{strategy}")
def next_sample(pool: APool, strategy: str, asked: Asked | None = None) -> dict[str, Any]:
    """The scan to label next; nothing where all have a final label."""
    if strategy not in STRATEGIES:
        raise InputError(f"no strategy {strategy!r}; choose one of {', '.join(STRATEGIES)}")
    open_ones = [scan for scan in pool.store.scans.listed() if "final" not in pool.labels.tags(scan.id)]
    if not open_ones:
        return {}
    chosen = random.choice(open_ones) if strategy == "random" else open_ones[0]
    if strategy == UNCERTAINTY and (doubts := pool.doubts.of([scan.id for scan in open_ones])):
        chosen = max(open_ones, key=lambda scan: doubts.get(scan.id, -1.0))
    return {"id": chosen.id, "name": Path(chosen.name).name, "path": "", "ts": 0, "checksum": ""}


@router.get("/model/info/{model}")
def model_info(store: AStore, model: Literal["automatic", "clicks"]) -> dict[str, Any]:
    """By which weights labels come about."""
    return {"name": model, "sha256": store.segmenter.sha256, "version": __version__}


@router.get("/train/")
def train_status(pool: APool, all: bool = False, check_if_running: bool = False) -> Any:
    """How the last training stands, or every one. Clients take another status than 200 as that there is none."""
    found = pool.trainer.newest()
    if found is None or (check_if_running and not pool.trainer.running):
        raise HTTPException(404, "nothing is being trained")
    return pool.trainer.all() if all else found


@router.post("/train/{model}")
def train_start(
    pool: APool, model: Literal["s2vnet", "automatic", "clicks"], params: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Train on all scans that have a final label, in the background, starting from this server's model."""
    if pool.trainer.running:
        raise HTTPException(429, "a training is at work already; stop it, or wait for its end")
    return pool.trainer.start(params or {}, pool.labelled())


@router.post("/train/")
def train_start_all(pool: APool, params: dict[str, Any] | None = None) -> dict[str, Any]:
    """The same, with parameters for each of the models."""
    own = (params or {}).get(TRAINER, params or {})
    if not isinstance(own, dict):
        raise InputError(f"parameters of {TRAINER} are no JSON object")
    return {TRAINER: {"result": train_start(pool, "s2vnet", own), "detail": None}}


@router.delete("/train/")
async def train_stop(pool: APool) -> dict[str, Any] | None:
    """Stop at the end of the step; what has been learned stays, and the same request goes on with it."""
    return await pool.training_line.run(lambda _: pool.trainer.stop())


@router.get("/logs/")
def logs(pool: APool) -> Response:
    """What the last training wrote; nothing of what one client does is told to another."""
    return PlainTextResponse(pool.trainer.log())


@router.get("/auth/")
def auth() -> Response:
    """No users and roles."""
    raise HTTPException(404, "no users; where a token is needed it comes as Authorization: Bearer")


def _scan_asked(pool: Pool, image: str, session: str, file: UploadFile | None) -> str:
    """The scan that a request is about: of a session, sent with it, or named. Raises InputError for none."""
    if session:
        _sent(pool, session)
        return SENT + session
    if file is not None:
        return pool.store.scans.receive(file.filename or "", file.file).id
    pool.store.scans.find(image)
    return image


def _segmented(pool: Pool, scan: str, points: tuple[Point, ...], seconds: float) -> LabelMap:
    """Labels of a scan under clicks."""
    with pool.taken(scan) as held:
        held.wait(seconds)  # what does not fit the scan is refused once its size is known
        held.begin(points)
        return held.use(lambda session: session.result, seconds)


@contextmanager
def _called(name: str, path: Path) -> Iterator[None]:
    """Within it, errors call a scan as its client does, not where it lies here."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace(str(path), name)) from error


def _answer(
    image: Path, labels: LabelMap, output: str | None, asked: Mapping[str, Any], found: dict[str, Any], corrected: bool
) -> Response:
    """Labels in the form that was asked for."""
    if output == "json":
        return Response(json.dumps(found), media_type="application/json")
    shown = uuid.uuid4().hex
    if output == "dicom_seg":
        names = {value: name for name, value in found["label_names"].items()}
        return file_of(shown, "dcm", lambda path: write_result(path, labels, names, image, corrected=corrected))
    ending = asked.get("result_extension", LABEL_ENDING)
    if ending not in ENDINGS:
        raise InputError(f"no format {ending!r}; choose one of {', '.join(ENDINGS)}")
    content = file_of(shown, ending[1:], lambda path: write_labels(path, labels))
    return content if output == "image" else _multipart(found, Path(content.path), content)


def _sent_label(path: Path, geometry: Geometry) -> LabelMap:
    """A label on the grid of its scan; a file that claims another size is not unpacked. Raises InputError."""
    geometry.require_same_grid(read_geometry(path), "scan and label")
    claimed, voxels = count_voxels(path), math.prod(geometry.shape)
    if claimed != voxels:
        raise InputError(f"label of {claimed} values for {voxels} voxels; send one a voxel")
    return read_labels(path)


def _statistics(pool: Pool) -> dict[str, Any]:
    scans = [scan.id for scan in pool.store.scans.listed()]
    final = [scan for scan in scans if "final" in pool.labels.tags(scan)]
    counts = {tag: sum(tag in pool.labels.tags(scan) for scan in scans) for tag in TAGS}
    return {"total": len(scans), "completed": len(final), "label_tags": counts, "train": [{"image": s} for s in final]}


def _points(params: Mapping[str, Any], names: Mapping[int, str]) -> tuple[Point, ...]:
    """Clicks of every class."""
    ids = {name: value for value, name in names.items()}
    found = []
    for key, places in params.items():
        if key not in ids:
            if key not in OPTIONS:
                raise InputError(f"no class and no parameter {key!r}; the model knows {', '.join(ids)}")
            continue
        try:
            found += [Point(class_id=ids[key], voxel=tuple(int(n) for n in place)) for place in places]
        except (OverflowError, TypeError, ValueError) as error:
            raise InputError(f"{key}: clicks are given as [[i, j, k], ...]") from error
    if len(found) > MOST_ENTRIES:
        raise InputError(f"{len(found)} clicks, more than {MOST_ENTRIES}")
    return tuple(found)


def _json(text: str) -> dict[str, Any]:
    try:
        found = parse_json(text or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InputError("params is no JSON object")
    return found


def _sent(pool: Pool, name: str) -> Path:
    """The scan that was sent for a session, whose name is the scan's own; it is in use from now on."""
    try:
        path = pool.store.scans.find(SENT + name)
    except InputError as error:
        raise InputError("no such session; send the scan again") from error
    with contextlib.suppress(OSError):
        os.utime(path)
    return path


def _session_info(pool: Pool, name: str) -> dict[str, Any]:
    asked, days = _sent(pool, name).stat().st_mtime, pool.store.settings.keep_days
    return {"name": name, "image": SENT + name, "last_access_ts": int(asked), "expiry": int(days * 86400), "meta": {}}


def _saved(pool: Pool, scan: str, tag: str) -> Path:
    pool.store.scans.find(scan)
    path = pool.labels.path(tag, scan)
    if not path.exists():
        raise InputError(f"no such label: the scan has no {tag} one")
    return path


def _multipart(params: Mapping[str, Any], path: Path, content: FileResponse) -> Response:
    """Parameters and a file, as MONAI Label's own server sends them."""
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
