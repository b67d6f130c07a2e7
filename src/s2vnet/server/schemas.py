"""What travels between server and clients: JSON, and blocks of labels. No torch.

Voxel indices are ``i j k`` in file axis order, as everywhere. A block is a binary message: four bytes that tell the
length of the JSON head (little endian), the head (:class:`Block`), and the labels, one byte a voxel in C order,
compressed with zlib.
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
MOST_ENTRIES = 1000
"""Prompts of one operation."""
_LENGTH = struct.Struct("<I")


class _Sent(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LabelClass(_Sent):
    """A class of the model."""

    id: int
    """Label value; 0 is background."""
    name: str
    color: str
    """``#rrggbb``"""


class Info(_Sent):
    """What this server is and can do."""

    name: Literal["s2vnet"] = "s2vnet"
    version: str
    model: str
    model_sha256: str
    channels: tuple[str, ...]
    """Channels that an image needs."""
    classes: tuple[LabelClass, ...]
    max_upload_mb: int
    max_voxels: int
    token_needed: bool


class Scan(_Sent):
    """An image in the data folder, or one that was sent."""

    id: str
    """What names it to this server: its path in the data folder, or ``upload:`` and a number."""
    name: str


class Open(_Sent):
    """Ask for a session."""

    image: str = Field(max_length=1024)
    """A scan's ``id``."""


class Add(_Sent):
    """Prompts and locks as one operation; undone together."""

    op: Literal["add"] = "add"
    entries: tuple[Entry, ...] = Field(min_length=1, max_length=MOST_ENTRIES)


class Remove(_Sent):
    """Take out one entry of the log, by its place in it."""

    op: Literal["remove"] = "remove"
    index: int


class Step(_Sent):
    """Back or on by an operation, or back to no prompts at all."""

    op: Literal["undo", "redo", "reset"]


class Replace(_Sent):
    """Another log, such as a saved one, as one operation."""

    op: Literal["replace"] = "replace"
    entries: tuple[Entry, ...] = Field(max_length=MOST_ENTRIES)


Operation = Annotated[Add | Remove | Step | Replace, Field(discriminator="op")]


class State(_Sent):
    """A session as it is now."""

    type: Literal["state"] = "state"
    session: str
    image: Scan
    shape: Voxel | None
    """Voxels (I, J, K) of the image; null until it has been read."""
    affine: tuple[tuple[float, ...], ...] | None
    """Voxel to world, RAS+ mm."""
    plane: int | None
    """File axis across which the network's slices lie."""
    status: Literal["opening", "working", "ready", "failed"]
    """Opening: it is read, encoded and segmented. Working: a newer operation is being worked out."""
    error: str | None = None
    progress: float
    """Of opening, 0 to 1."""
    revision: int
    """Operations that the session has taken."""
    shown: int
    """Operations that the labels have in them."""
    entries: tuple[Entry, ...]
    can_undo: bool
    can_redo: bool
    notes: tuple[str, ...]
    """Prompts that a later one or a lock overrules."""
    unlike: tuple[str, ...]
    """In what the image lies outside of what the network was trained on."""
    formats: tuple[str, ...]
    """In which labels can be had: ``dcm`` (SEG) and ``rtstruct`` of a DICOM series alone."""


class Block(_Sent):
    """Head of a block of labels."""

    type: Literal["block"] = "block"
    revision: int
    start: Voxel
    shape: Voxel
    final: bool
    """False: a slice as it is done, of work that goes on."""


class Suggestion(_Sent):
    """Where to look next."""

    axis: int
    """File axis across which the slice lies."""
    index: int


class Problem(_Sent):
    """Why something was not done, in one line that says what to do."""

    type: Literal["problem"] = "problem"
    detail: str


def pack_block(head: Block, labels: LABELS) -> bytes:
    """A block (I, J, K) as a message."""
    text = head.model_dump_json().encode()
    return _LENGTH.pack(len(text)) + text + zlib.compress(np.ascontiguousarray(labels).tobytes(), 1)


def unpack_block(message: bytes) -> tuple[Block, LABELS]:
    """The block of a message. Raises ValueError when it is none."""
    try:
        (length,) = _LENGTH.unpack_from(message)
        head = Block.model_validate(json.loads(message[4 : 4 + length]))
        raw = zlib.decompress(message[4 + length :], bufsize=int(np.prod(head.shape)))
    except (struct.error, zlib.error) as error:
        raise ValueError(f"no block of labels ({error})") from error
    return head, np.frombuffer(raw, np.uint8).reshape(head.shape)
