"""Images that clients added to the server's collection under ids of their own, as 3D Slicer does.

Unlike other uploads they are kept until a client deletes them. File names are hashes of the ids, since an id may
identify a patient.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path

from s2vnet.errors import InputError
from s2vnet.utils.atomic_write import atomic_write
from s2vnet.utils.json_io import read_json

MAX_ID_LENGTH = 200
_RECORD = ".json"


class AddedImages:
    """A folder with an image and a record for each id. Thread-safe: files are replaced atomically."""

    def __init__(self, folder: Path) -> None:
        """Create the folder."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, ending: str, write: Callable[[Path], None]) -> None:
        """Add an image under an id; an earlier one of this id is replaced.

        Args:
            name: the id.
            ending: of the image's file name.
            write: writes the image to a path.

        Raises:
            InputError: an empty id, one of more than 200 characters, or one with control characters.
        """
        if not name.strip() or len(name) > MAX_ID_LENGTH or not name.isprintable():
            raise InputError(f"an image's id has 1 to {MAX_ID_LENGTH} printable characters")
        previous = self.find(name)
        path = self._folder / (_key(name) + ending)
        write(path)
        if previous is not None and previous != path:
            previous.unlink(missing_ok=True)
        with atomic_write(path.parent / (_key(name) + _RECORD)) as temporary:
            temporary.write_text(json.dumps({"id": name}))

    def find(self, name: str) -> Path | None:
        """Return the path of an image; None if there is none of this id."""
        return next((path for path in sorted(self._folder.glob(f"{_key(name)}.*")) if path.suffix != _RECORD), None)

    def names(self) -> list[str]:
        """Return the ids of all images in alphabetical order."""
        found = []
        images = {path.name.partition(".")[0] for path in self._folder.iterdir() if path.suffix != _RECORD}
        for record in self._folder.glob(f"*{_RECORD}"):
            try:
                name = str(read_json(record)["id"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
            if _key(name) in images:
                found.append(name)
        return sorted(found)

    def remove(self, name: str) -> bool:
        """Delete an image; False if there is none of this id."""
        path = self.find(name)
        if path is None:
            return False
        path.unlink(missing_ok=True)
        (self._folder / (_key(name) + _RECORD)).unlink(missing_ok=True)
        return True

    @property
    def nbytes(self) -> int:
        """Bytes of all images on the disk."""
        return sum(path.stat().st_size for path in self._folder.iterdir() if path.suffix != _RECORD)


def _key(name: str) -> str:
    return uuid.uuid5(uuid.NAMESPACE_OID, name).hex
