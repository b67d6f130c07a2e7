"""Which scans may be opened: those in the data folder, and those that were sent. Nothing else is ever read.

Clients name a scan by an ``id`` that this module gave out; a path that leaves the data folder, by ``..`` or by a
symbolic link, is none.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import IO

from s2vnet.errors import InputError
from s2vnet.io.dicom.zip_archive import ENDING as ZIP
from s2vnet.io.files import ENDINGS
from s2vnet.server.schemas import Scan
from s2vnet.utils.atomic_write import atomic_write

SENT = "upload:"
MOST_LISTED = 5000
_ONE_FILE = (*(e for e in ENDINGS if e not in (".nhdr", ".mhd")), ZIP)  # those name a second file, which may be any
_WINDOWS = os.name == "nt"
_NAME = re.compile("[0-9a-f]{32}")


class Full(InputError):
    """There is no room for more, for now."""


class Scans:
    """The data folder, and the folder of what was sent. Safe to call from any thread."""

    def __init__(
        self,
        data: Path | None,
        sent: Path,
        most_bytes: int | None = None,
        used: Callable[[], Collection[Path]] = tuple,
    ) -> None:
        """Args: the folders, the disk that all sent scans may take together, and which of them are in use.

        The data may be one scan: then no other is served. Raises InputError when they are not there.
        """
        if data is not None and not data.is_dir() and not _is_scan(data):
            raise InputError(f"{data}: no folder and no scan; name one, or leave it out")
        self._only = data.resolve() if data is not None and _is_scan(data) else None
        self._data = data.resolve() if data is not None and self._only is None else self._only and self._only.parent
        self._sent, self._most_bytes, self._used = sent, most_bytes, used
        self._lock = threading.Lock()
        self._coming = 0
        """Bytes of what is being written."""
        sent.mkdir(parents=True, exist_ok=True)

    def listed(self) -> list[Scan]:
        """Scans in the data folder, in the order of their names, as many as a list can show."""
        if self._data is None:
            return []
        found = []
        for path in _walk(self._data) if self._only is None else [self._only]:
            if _is_scan(path) and self._allowed(path):
                name = path.relative_to(self._data).as_posix()
                found.append(Scan(id=name, name=name))
                if len(found) == MOST_LISTED:
                    break
        return found

    def find(self, scan: str) -> Path:
        """Where a scan lies. Raises InputError for what is not, or not to be read."""
        path = None
        if scan.startswith(SENT):
            name = scan.removeprefix(SENT)
            if _NAME.fullmatch(name):
                path = next(iter(sorted(self._sent.glob(f"{name}.*"))), None)
        elif self._data is not None and _is_name(scan) and self._inside(self._data / scan):
            path = self._data / scan
        if path is None or not _is_scan(path) or not (scan.startswith(SENT) or self._allowed(path)):
            raise InputError("no such scan; ask for the list of scans, or send one")
        return path

    def name(self, scan: str) -> Scan:
        """A scan as it is shown; what was sent has no name, for names tell of patients."""
        return Scan(id=scan, name="sent scan" if scan.startswith(SENT) else scan)

    def new(self, filename: str) -> tuple[Scan, Path]:
        """A place for a scan that is being sent; of its name the ending alone is used.

        Raises:
            InputError: an ending of no image.
        """
        ending = next((e for e in _ONE_FILE if filename.lower().endswith(e)), None)
        if ending is None:
            raise InputError("a scan has to be sent as one file: .nii.gz, .nii, .nrrd, .mha, or DICOM files in a .zip")
        name = uuid.uuid4().hex
        return self.name(SENT + name), self._sent / (name + ending)

    def receive(self, filename: str, content: IO[bytes]) -> Scan:
        """Keep a scan that is sent; nothing of it stays when it breaks off.

        Raises:
            InputError: as :meth:`new`.
            Full: as :meth:`room`.
        """
        scan, path = self.new(filename)
        self.write(path, content)
        return scan

    def write(self, path: Path, content: IO[bytes]) -> None:
        """Write whole or not at all. Raises Full as :meth:`room`."""
        content.seek(0, os.SEEK_END)
        size = content.tell()
        content.seek(0)
        with self.room(size), atomic_write(path) as temporary, temporary.open("wb") as target:
            shutil.copyfileobj(content, target)

    @contextmanager
    def room(self, size: int) -> Iterator[None]:
        """Room for so many bytes while they are written; what was not used for longest makes it.

        Raises:
            Full: what is in use leaves too little; nothing is removed then.
        """
        with self._lock:
            self._make_room(size)
            self._coming += size
        try:
            yield
        finally:
            with self._lock:
                self._coming -= size

    def _make_room(self, size: int) -> None:
        if self._most_bytes is None:
            return
        kept = {path: path.stat() for path in self._sent.iterdir() if path.is_file()}
        excess = sum(one.st_size for one in kept.values()) + self._coming + size - self._most_bytes
        going, used = [], set(self._used())
        for path in sorted(kept, key=lambda path: kept[path].st_mtime):
            if excess > 0 and path not in used:
                excess -= kept[path].st_size
                going.append(path)
        if excess > 0:
            most = self._most_bytes // 2**20
            raise Full(
                f"no room for this scan in the {most} MB for what is sent; send a smaller one, or try again later"
            )
        for path in going:
            path.unlink(missing_ok=True)

    def _allowed(self, path: Path) -> bool:
        """Whether a scan, with every file of a series, lies in the data folder."""
        if not self._inside(path):
            return False
        if not path.is_dir():
            return True
        try:
            with os.scandir(path) as files:  # a file that is no link lies where its folder does
                return all(self._inside(Path(file)) for file in files if file.is_symlink() or file.is_dir())
        except OSError:
            return False

    def _inside(self, path: Path) -> bool:
        assert self._data is not None
        try:
            found = path.resolve()
            return found.is_relative_to(self._only or self._data)
        except (OSError, RuntimeError, ValueError):
            return False


def _walk(folder: Path) -> Iterator[Path]:
    try:
        paths = sorted(folder.iterdir())
    except OSError:
        return
    for path in paths:
        if path.name.startswith("."):
            continue
        if path.is_dir() and not path.is_symlink():
            if _is_scan(path):
                yield path
            else:
                yield from _walk(path)
        else:
            yield path


def _is_name(scan: str) -> bool:
    """Whether a name may be looked up; on Windows to look one up may ask another machine for it."""
    foreign = _WINDOWS and ("\\" in scan or PureWindowsPath(scan).anchor != "")
    return scan != "" and "\0" not in scan and not foreign


def _is_scan(path: Path) -> bool:
    """A file with an image's ending, or a folder of DICOM files."""
    try:
        if path.is_dir():
            return any(file.suffix.lower() == ".dcm" for file in path.iterdir() if file.is_file())
        return path.is_file() and path.name.lower().endswith(_ONE_FILE)
    except OSError:
        return False
