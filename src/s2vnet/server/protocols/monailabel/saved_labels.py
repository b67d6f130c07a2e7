"""Labels that clients have saved, by tag and scan, and what they say about images and labels."""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from s2vnet.errors import InputError, NotFoundError
from s2vnet.io.files import write_labels
from s2vnet.io.geometry import LabelMap
from s2vnet.utils.atomic_write import atomic_write
from s2vnet.utils.file_names import printable
from s2vnet.utils.json_io import read_json

LABEL_ENDING = ".nii.gz"
FINAL, ORIGINAL = "final", "original"
TAGS = (FINAL, ORIGINAL)
"""Tags with a meaning: a label that was submitted, and one that a model made."""
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_IMAGES = ".images"
"""Folder of what is known about images; no tag begins with a dot."""
MAX_INFO_NBYTES = 1 << 20


class SavedLabels:
    """Labels by tag and scan, with a record of facts for each. Thread-safe."""

    def __init__(self, folder: Path, find: Callable[[str], Path]) -> None:
        """Args: the folder, and the function that finds the file of a scan."""
        self._folder, self._find = folder, find
        self._lock = threading.Lock()

    def path(self, tag: str, scan: str) -> Path:
        """Return the path of a label, which may not exist yet; it depends on the scan's absolute path.

        Raises:
            InputError: a tag of other characters than letters, digits, ``_``, ``-`` and ``.``, or no such scan.
        """
        if not _TAG.fullmatch(tag):
            raise InputError(f"no tag {tag[:64]!r}; tags are final, original, or up to 64 of a-z A-Z 0-9 _ - .")
        return self._folder / tag / (self._key(scan) + LABEL_ENDING)

    def find(self, tag: str, scan: str) -> Path:
        """Return the path of a saved label. Raises InputError if there is none."""
        path = self.path(tag, scan)
        if not path.exists():
            raise NotFoundError(f"no such label: the scan has no {tag} one")
        return path

    def tags(self, scan: str) -> list[str]:
        """List the tags of a scan's labels: `final` and `original` first."""
        name = self._key(scan) + LABEL_ENDING
        found = {path.parent.name for path in self._folder.glob(f"*/{name}")}
        return [tag for tag in TAGS if tag in found] + sorted(found - set(TAGS))

    def save(self, tag: str, scan: str, labels: LabelMap, info: Mapping[str, Any] | None = None) -> None:
        """Save a label and facts about it; an earlier one of the tag is replaced."""
        path = self.path(tag, scan)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_labels(path, labels)
        self._write(_record(path), {**(info or {}), "ts": int(time.time())})

    def remove(self, tag: str, scan: str) -> None:
        """Delete a label. Raises InputError if there is none."""
        path = self.find(tag, scan)
        path.unlink(missing_ok=True)
        _record(path).unlink(missing_ok=True)

    def forget(self, scan: str) -> None:
        """Delete all labels of a scan, and what is known about it."""
        for tag in self.tags(scan):
            self.remove(tag, scan)
        self._image_record(scan).unlink(missing_ok=True)

    def label_info(self, tag: str, scan: str) -> dict[str, Any]:
        """Return what clients said about a label. Raises InputError if there is none."""
        path = self.find(tag, scan)
        return {"ts": int(path.stat().st_mtime), **_read(_record(path))}

    def update_label_info(self, tag: str, scan: str, info: Mapping[str, Any]) -> None:
        """Add facts about a label. Raises InputError if there is none."""
        self._update(_record(self.find(tag, scan)), info)

    def image_info(self, scan: str) -> dict[str, Any]:
        """Return what clients said about an image."""
        return _read(self._image_record(scan))

    def update_image_info(self, scan: str, info: Mapping[str, Any]) -> None:
        """Add facts about an image."""
        self._update(self._image_record(scan), info)

    def _key(self, scan: str) -> str:
        return uuid.uuid5(uuid.NAMESPACE_URL, printable(str(self._find(scan).resolve()))).hex

    def _image_record(self, scan: str) -> Path:
        return self._folder / _IMAGES / f"{self._key(scan)}.json"

    def _update(self, path: Path, info: Mapping[str, Any]) -> None:
        with self._lock:
            self._write(path, {**_read(path), **info})

    def _write(self, path: Path, info: Mapping[str, Any]) -> None:
        text = json.dumps(info)
        if len(text) > MAX_INFO_NBYTES:
            raise InputError(f"more than {MAX_INFO_NBYTES // 2**20} MB of facts about one image or label")
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_text(text)


def map_classes(labels: LabelMap, label_info: object, classes: Mapping[int, str]) -> LabelMap:
    """Return a client's label with the model's class ids instead of the client's values.

    Clients name what a label holds by a list of ``{"name": ..., "idx": ...}``. Files of 3D Slicer number the exported
    segments from 1 in the order of the list, whereas `idx` also counts segments that were not exported, such as the
    background; other clients mean `idx`. The meaning is the one that names every value. If both do, and differ, it is
    `idx` where all of them are the model's class ids, else the order.

    Args:
        labels: as the client sent it.
        label_info: the client's list; without one, values are class ids.
        classes: the model's classes by id; 0 is background.

    Raises:
        InputError: a value without a name or class.
    """
    values = [value for value in np.unique(labels.data).tolist() if value]
    ids = {name: value for value, name in classes.items()}
    known = ", ".join(ids)
    if not (entries := _named_entries(label_info)):
        if unknown := [value for value in values if value not in classes]:
            raise InputError(f"the label has values {unknown[:10]}, which are no classes of the model: {known}")
        return labels
    by_position = {position: name for position, (name, _) in enumerate(entries, 1)}
    by_index = {index: name for name, index in entries if index is not None} or by_position
    meanings = [names for names in (by_position, by_index) if set(values) <= set(names)]
    if not meanings:
        raise InputError(f"the label has values {values[:10]}, and label_info names {sorted(by_index)[:10]}")
    class_ids = all(ids.get(name) == index for index, name in by_index.items())
    meaning = {value: meanings[-1 if class_ids else 0][value] for value in values}
    unknown_names = sorted({name for name in meaning.values() if name not in ids})
    if unknown_names:
        raise InputError(f"the label has {', '.join(unknown_names)[:200]}, which the model does not know: {known}")
    table: npt.NDArray[Any] = np.zeros(max(values, default=0) + 1, np.min_scalar_type(max(classes)))
    for value, name in meaning.items():
        table[value] = ids[name]
    return LabelMap(table[labels.data], labels.geometry)


def label_names(label_info: object) -> list[str]:
    """Return the names in a client's list of what a label holds."""
    return [name for name, _ in _named_entries(label_info)]


def _named_entries(label_info: object) -> list[tuple[str, int | None]]:
    """Return names and indices of a client's list; empty if it is no list of named entries."""
    if not isinstance(label_info, list):
        return []
    entries: list[tuple[str, int | None]] = []
    for entry in label_info:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            return []
        index = entry.get("idx", entry.get("id"))
        entries.append((entry["name"], index if isinstance(index, int) and index > 0 else None))
    return entries


def _record(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(LABEL_ENDING) + ".json")


def _read(path: Path) -> dict[str, Any]:
    try:
        info = read_json(path)
    except (OSError, ValueError):
        return {}
    return info if isinstance(info, dict) else {}
