"""Prompt logs: JSON files, and notes on entries that later ones overrule."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from s2vnet.errors import InputError
from s2vnet.interactive.history import Log
from s2vnet.interactive.overruled_prompts import MAX_COMPARED_VOXELS
from s2vnet.interactive.voxelize import is_box, is_prompt, num_prompt_voxels, prompt_voxels
from s2vnet.io.geometry import Geometry
from s2vnet.prompts import Entry, Lock, NewClass
from s2vnet.utils.atomic_write import atomic_write
from s2vnet.utils.json_io import read_json

LOG_FORMAT = 2
"""Format 1, in which all prompts of a log were applied together, is read, too."""
_entries: TypeAdapter[list[Entry]] = TypeAdapter(list[Entry])


class SavedLog(NamedTuple):
    """Content of a prompt log file."""

    entries: Log
    model_sha256: str
    geometry: Geometry
    """Grid of the image that the prompts were given on."""
    initial: npt.NDArray[np.uint8] | None = None
    """Labels (I, J, K) that the session started from; None for the automatic ones."""
    format: int = LOG_FORMAT


def class_names(network: Mapping[int, str], log: Log) -> dict[int, str]:
    """Class name by label value: the network's classes and those that a log adds."""
    return {**network, **{entry.class_id: entry.name for entry in log if isinstance(entry, NewClass)}}


def write_log(path: Path, log: SavedLog, class_names: Mapping[int, str], notes: Sequence[str]) -> None:
    """Write a prompt log as JSON, with class names and notes for readers. Raises InputError if writing fails."""
    content = {
        "format": LOG_FORMAT,
        "model_sha256": log.model_sha256,
        "shape": log.geometry.shape,
        "affine": log.geometry.affine.tolist(),
        "classes": class_names,
        "entries": _entries.dump_python(list(log.entries), mode="json"),
        "notes": notes,
    }
    if log.initial is not None:
        raw = log.initial.tobytes()
        packed = base64.b64encode(zlib.compress(raw)).decode()
        content["initial"] = {"sha256": hashlib.sha256(raw).hexdigest(), "labels": packed}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def read_log(path: Path) -> SavedLog:
    """Read a prompt log.

    Raises:
        InputError: missing, damaged, or of another format.
    """
    try:
        content = read_json(path)
        if content["format"] not in (1, LOG_FORMAT):
            raise InputError(f"{path}: prompt log of format {content['format']}, but this version reads {LOG_FORMAT}")
        entries = tuple(_entries.validate_python(content["entries"]))
        i, j, k = (int(n) for n in content["shape"])
        geometry = Geometry((i, j, k), np.array(content["affine"], float))
        initial = _unpack_labels(content["initial"], geometry.shape) if "initial" in content else None
        return SavedLog(entries, str(content["model_sha256"]), geometry, initial, content["format"])
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except InputError:
        raise
    except (OverflowError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise InputError(f"{path}: not a prompt log, or damaged ({str(error).splitlines()[0]})") from error


def _unpack_labels(content: Mapping[str, str], shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """Unpack labels (I, J, K). Raises ValueError where they are damaged or of another shape."""
    size, stream = math.prod(shape), zlib.decompressobj()
    try:
        raw = stream.decompress(base64.b64decode(content["labels"], validate=True), size + 1)
    except zlib.error as error:
        raise ValueError("its initial labels are damaged") from error
    if len(raw) != size or hashlib.sha256(raw).hexdigest() != content["sha256"]:
        raise ValueError("its initial labels are damaged")
    return np.frombuffer(raw, np.uint8).reshape(shape)


def conflict_notes(log: Log, labels: npt.NDArray[np.uint8], overruled: Mapping[int, Sequence[int]]) -> list[str]:
    """Notes on prompts that later prompts overrule, and on those that have no effect on locked classes.

    Args:
        log: prompts and locks in the order they were given.
        labels: (I, J, K) current labels.
        overruled: :attr:`s2vnet.interactive.overruled_prompts.OverruledPrompts.overruled` of the log.
    """
    locked_since = _locked_since(log)
    notes = []
    for number, entry in enumerate(log):
        if not is_prompt(entry):
            continue
        locks = [class_id for class_id, since in locked_since.items() if since < number]
        if entry.class_id in locks:
            notes.append(
                f"prompt {number} is for class {entry.class_id}, which is locked: it has no effect on that class"
            )
        if locks and entry.positive and not is_box(entry) and num_prompt_voxels(entry) <= MAX_COMPARED_VOXELS:
            found = set(np.unique(labels[tuple(prompt_voxels(entry).T)]).tolist())
            notes += [
                f"prompt {number} lies on class {class_id}, which is locked: it changes nothing there"
                for class_id in locks
                if class_id != entry.class_id and class_id in found
            ]
        before = overruled.get(number, ())
        notes += [f"prompt {number} overrules prompt {other} where they overlap" for other in before]
    return notes


def _locked_since(log: Sequence[Entry]) -> dict[int, int]:
    """Index in the log of the entry that locks each class that is locked at the end."""
    locked_since: dict[int, int] = {}
    for number, entry in enumerate(log):
        if isinstance(entry, Lock) and entry.locked:
            locked_since.setdefault(entry.class_id, number)
        elif isinstance(entry, Lock):
            locked_since.pop(entry.class_id, None)
    return locked_since
