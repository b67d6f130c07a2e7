"""Messages between server and clients: JSON, and binary blocks of labels. Imports no torch.

Voxel indices are ``i j k`` in file axis order. A block is a binary message: the length of its JSON header (4 bytes,
little endian), the header (:class:`Block`), and the labels (uint8, C order), compressed with zlib.
"""

from __future__ import annotations

import json
import struct
import zlib
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from s2vnet.prompts import Entry, Voxel

LABELS = npt.NDArray[np.uint8]
MAX_ENTRIES = 1000
"""Largest number of prompts of one operation."""
_LENGTH = struct.Struct("<I")


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LabelClass(_Message):
    """A class of the model."""

    id: int
    """Label value; 0 is background."""
    name: str
    color: str
    """``#rrggbb``"""
    added: bool = False
    """Whether the session's user added it."""


class ClassStyle(_Message):
    """Name and colour that a user gives to a class; null for the usual ones."""

    name: str | None = Field(default=None, max_length=100)
    color: str | None = Field(default=None, pattern="^#[0-9a-f]{6}$")
    """``#rrggbb``"""


class Model(_Message):
    """A model of the server."""

    name: str
    sha256: str
    """Hash of its weights; prompt logs name it."""
    modality: str | None
    """CT, MR, or null for several or unknown ones."""
    channels: tuple[str, ...]
    """Channels that an image must have."""
    classes: tuple[LabelClass, ...]


class Info(_Message):
    """The server's models and limits."""

    name: Literal["s2vnet"] = "s2vnet"
    version: str
    models: tuple[Model, ...]
    """In the order in which they are preferred where several fit a scan."""
    max_upload_mb: int
    max_voxels: int
    token_needed: bool


class Scan(_Message):
    """An image in the data folder, or an uploaded one."""

    id: str
    """Its path in the data folder, or ``upload:`` and a number."""
    name: str


class Open(_Message):
    """Request to open a session."""

    image: str = Field(max_length=1024)
    """A scan's ``id``."""
    model: str | None = Field(default=None, max_length=256)
    """A model's ``name``; null: the first one that fits the scan's channels and modality."""


class SessionSummary(_Message):
    """A session that can be continued."""

    session: str
    image: Scan
    prompts: int
    """Number of entries of its log."""
    changed: float
    """Unix time of its last operation, seconds."""


class _Operation(_Message):
    key: str | None = Field(default=None, max_length=64)
    """Chosen by the client: an operation sent again with the same key, as after a lost connection, has no effect."""


class Add(_Operation):
    """Add prompts and locks as one operation; they are undone together."""

    op: Literal["add"] = "add"
    entries: tuple[Entry, ...] = Field(min_length=1, max_length=MAX_ENTRIES)


class Remove(_Operation):
    """Remove one entry of the log by its index."""

    op: Literal["remove"] = "remove"
    index: int


class Step(_Operation):
    """Undo or redo an operation, or remove all prompts."""

    op: Literal["undo", "redo", "reset"]


class Replace(_Operation):
    """Replace the log, such as by a saved one, as one operation."""

    op: Literal["replace"] = "replace"
    entries: tuple[Entry, ...] = Field(max_length=MAX_ENTRIES)


Operation = Add | Remove | Step | Replace
"""What a client may do to a session's prompt log."""


class State(_Message):
    """Current state of a session."""

    type: Literal["state"] = "state"
    session: str
    image: Scan
    model: str
    """Name of the session's model, whose classes are those of the labels."""
    shape: Voxel | None
    """Voxels (I, J, K) of the image; null until it has been read."""
    affine: tuple[tuple[float, ...], ...] | None
    """Voxel to world, RAS+ mm."""
    plane: int | None
    """File axis across which the network's slices lie."""
    status: Literal["opening", "working", "ready", "failed"]
    """Opening: the image is read, encoded and segmented. Working: a newer operation is being computed."""
    error: str | None = None
    progress: float
    """Progress of opening, 0 to 1."""
    revision: int
    """Number of operations requested so far."""
    shown: int
    """Number of operations that the labels include."""
    entries: tuple[Entry, ...]
    can_undo: bool
    can_redo: bool
    notes: tuple[str, ...]
    """Prompts that a later prompt or a lock overrides."""
    unlike: tuple[str, ...]
    """Properties of the image outside the ranges of the training data."""
    formats: tuple[str, ...]
    """Formats available for the labels; ``dcm``, ``labelmap`` (SEG) and ``rtstruct`` for a DICOM series only."""
    classes: tuple[LabelClass, ...] = ()
    """The model's classes and those that the log adds, with the user's names and colours."""
    taken: tuple[str, ...] = ()
    """Keys of the last operations that were requested, oldest first."""
    viewers: int = 0
    """Number of clients connected to the live stream."""


class Block(_Message):
    """Header of a block of labels."""

    type: Literal["block"] = "block"
    revision: int
    start: Voxel
    shape: Voxel
    final: bool
    """False for one slice of a computation in progress."""


class Suggestions(_Message):
    """Places to check, the most doubtful first."""

    places: list[Annotated[list[int], Field(min_length=3, max_length=3)]]
    """File voxels i, j, k."""


class Problem(_Message):
    """Error message: one line that says what is wrong and what to do."""

    type: Literal["problem"] = "problem"
    detail: str
    key: str | None = None
    """Key of the operation that is refused."""


def pack_block(header: Block, labels: LABELS) -> bytes:
    """Encode labels (I, J, K) and their header as a message."""
    text = header.model_dump_json().encode()
    return _LENGTH.pack(len(text)) + text + zlib.compress(np.ascontiguousarray(labels).tobytes(), 1)


def unpack_block(message: bytes) -> tuple[Block, LABELS]:
    """Decode a message into header and labels (I, J, K). Raises ValueError when it is invalid."""
    try:
        (length,) = _LENGTH.unpack_from(message)
        header = Block.model_validate(json.loads(message[4 : 4 + length]))
        raw = zlib.decompress(message[4 + length :], bufsize=int(np.prod(header.shape)))
    except (struct.error, zlib.error) as error:
        raise ValueError(f"no block of labels ({error})") from error
    return header, np.frombuffer(raw, np.uint8).reshape(header.shape)
