"""Record of a session on the disk: scan, model and history, from which the session can be restored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from s2vnet.errors import InputError, NotFoundError
from s2vnet.interactive.history import History
from s2vnet.io.geometry import Volume
from s2vnet.prompts import Entry
from s2vnet.server.schemas import ClassStyle, Scan, SessionSummary
from s2vnet.utils.atomic_write import atomic_write
from s2vnet.utils.json_io import read_json

RECORD = "session.json"
RECORD_FORMAT = 1
_entries: TypeAdapter[tuple[Entry, ...]] = TypeAdapter(tuple[Entry, ...])


@dataclass(frozen=True)
class SessionRecord:
    """Content of a session's record."""

    scan: Scan
    model: str
    """Name of the model, for messages; empty in records of earlier versions."""
    model_sha256: str
    image: str | None
    """Digest of the image (:func:`image_digest`); None until the scan has been read."""
    revision: int
    history: History
    warnings: tuple[str, ...] = ()
    """What the user has to know of the scan."""
    source: str | None = None
    """Path of the scan's file or folder; None in older records."""
    changed: float | None = None
    """Unix time of the last operation, seconds; None in older records."""
    taken: tuple[str, ...] = ()
    """Keys of the last operations."""
    styles: Mapping[int, ClassStyle] = field(default_factory=dict)
    """Names and colours that the user chose, by label value."""

    @classmethod
    def read(cls, folder: Path) -> SessionRecord:
        """Read the record in a session's folder. Raises InputError when it is missing or damaged."""
        try:
            record = read_json(folder / RECORD)
            if record["format"] != RECORD_FORMAT:
                raise ValueError(f"format {record['format']}")
            entries = _entries.validate_python(record["entries"])
            logs = {key: tuple(tuple(entries[n] for n in log) for log in record[key]) for key in ("past", "undone")}
            history = History(tuple(entries[n] for n in record["log"]), logs["past"], logs["undone"])
            scan = Scan.model_validate(record["scan"])
            warnings, taken = (tuple(map(str, record.get(key, ()))) for key in ("warnings", "taken"))
            model, sha256 = str(record.get("model", "")), str(record["model_sha256"])
            place = record.get("source"), record.get("changed")
            styles = {int(k): ClassStyle.model_validate(style) for k, style in dict(record.get("styles", ())).items()}
            image, revision = record.get("image"), int(record["revision"])
            return cls(scan, model, sha256, image, revision, history, warnings, *place, taken, styles)
        except (OSError, OverflowError, ValueError, KeyError, TypeError, IndexError, ValidationError) as error:
            raise NotFoundError("no such session; open the scan again") from error

    def write(self, folder: Path) -> None:
        """Write the record into a session's folder atomically. Raises InputError when the system refuses to."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"the session cannot be saved ({error.strerror}); tell the server's operator") from error
        with atomic_write(folder / RECORD) as temporary:
            temporary.write_text(json.dumps(self._as_json()))

    def _as_json(self) -> dict[str, object]:
        """Encode the record; each entry is stored once, and logs are lists of indices."""
        index: dict[int, int] = {}  # by id(): logs share their entries, and large ones are slow to compare
        entries: list[Entry] = []
        logs = {"log": [self.history.log], "past": self.history.past, "undone": self.history.undone}
        for log in (log for group in logs.values() for log in group):
            for entry in log:
                if id(entry) not in index:
                    index[id(entry)] = len(entries)
                    entries.append(entry)
        indices = {key: [[index[id(entry)] for entry in log] for log in logs[key]] for key in logs}
        return {
            "format": RECORD_FORMAT,
            "scan": self.scan.model_dump(),
            "model": self.model,
            "model_sha256": self.model_sha256,
            "image": self.image,
            "revision": self.revision,
            "warnings": self.warnings,
            "source": self.source,
            "changed": self.changed,
            "taken": self.taken,
            "styles": {k: style.model_dump() for k, style in self.styles.items()},
            "entries": _entries.dump_python(tuple(entries), mode="json"),
            **indices,
            "log": indices["log"][0],
        }


def read_summary(folder: Path) -> tuple[SessionSummary, str | None, str]:
    """Return summary, path of the scan and model of the record in a session's folder, without checking its entries.

    Raises InputError when it is missing or damaged.
    """
    path = folder / RECORD
    try:
        record = read_json(path)
        scan, log = Scan.model_validate(record["scan"]), record["log"]
        changed = float(record.get("changed") or path.stat().st_mtime)
        summary = SessionSummary(session=folder.name, image=scan, prompts=len(log), changed=changed)
        return summary, record.get("source"), str(record["model_sha256"])
    except (OSError, OverflowError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise NotFoundError("no such session; open the scan again") from error


def image_digest(volume: Volume) -> str:
    """Hash an image's grid and a sample of its voxels, small enough to be fast compared with reading the file."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (repr(volume.data.shape).encode(), volume.geometry.affine.tobytes()):
        digest.update(part)
    digest.update(volume.data[:, ::7, ::7, ::3].tobytes())
    return digest.hexdigest()
