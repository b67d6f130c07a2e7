"""Record of a session on the disk: scan, model and history, from which the session can be restored."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from s2vnet.errors import InputError
from s2vnet.interactive.history import History
from s2vnet.io.geometry import Volume
from s2vnet.prompts import Entry
from s2vnet.server.schemas import Scan
from s2vnet.utils.atomic_write import atomic_write
from s2vnet.utils.json_io import read_json

RECORD = "session.json"
RECORD_FORMAT = 1
_entries: TypeAdapter[tuple[Entry, ...]] = TypeAdapter(tuple[Entry, ...])


@dataclass(frozen=True)
class SessionRecord:
    """Content of a session's record."""

    scan: Scan
    model_sha256: str
    image: str | None
    """Digest of the image (:func:`image_digest`); None until the scan has been read."""
    revision: int
    history: History
    warnings: tuple[str, ...] = ()
    """What the user has to know of the scan."""

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
            warnings = tuple(map(str, record.get("warnings", ())))
            return cls(scan, record["model_sha256"], record.get("image"), int(record["revision"]), history, warnings)
        except (OSError, OverflowError, ValueError, KeyError, TypeError, IndexError, ValidationError) as error:
            raise InputError("no such session; open the scan again") from error

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
            "model_sha256": self.model_sha256,
            "image": self.image,
            "revision": self.revision,
            "warnings": self.warnings,
            "entries": _entries.dump_python(tuple(entries), mode="json"),
            **indices,
            "log": indices["log"][0],
        }


def image_digest(volume: Volume) -> str:
    """Hash an image's grid and a sample of its voxels, small enough to be fast compared with reading the file."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (repr(volume.data.shape).encode(), volume.geometry.affine.tobytes()):
        digest.update(part)
    digest.update(volume.data[:, ::7, ::7, ::3].tobytes())
    return digest.hexdigest()
