"""Scans that clients may open: those in the data folder, added and uploaded ones. Other files are never read.

Clients refer to a scan by its ``id``. Paths that leave the data folder, by ``..`` or a symbolic link, are refused.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import IO
from urllib.parse import quote_from_bytes, unquote_to_bytes

from s2vnet.errors import CapacityError, InputError, NotFoundError
from s2vnet.io.dicom.folders import has_dicom_files, is_litter
from s2vnet.io.dicom.zip_archive import ENDING as ZIP
from s2vnet.io.dicom.zip_archive import open_series_folder
from s2vnet.io.files import SINGLE_FILE_ENDINGS, count_voxels, read_image
from s2vnet.io.geometry import Volume
from s2vnet.server.added_images import AddedImages
from s2vnet.server.schemas import Scan
from s2vnet.utils.atomic_write import atomic_write
from s2vnet.utils.file_names import printable

UPLOAD_PREFIX = "upload:"
ADDED = "added"
"""Folder of added images, beside the upload folder."""
BYTES_PREFIX = "bytes:"
"""Start of the id of a scan whose path is not text."""
MAX_LISTED = 5000
_ONE_FILE = (*SINGLE_FILE_ENDINGS, ZIP)  # the others refer to a second file, at any path
_LABEL_FOLDERS = frozenset((("labels", "final"), ("labels", "original")))
_WINDOWS = os.name == "nt"
_NAME = re.compile("[0-9a-f]{32}")


class ScanLibrary:
    """The data folder and the upload folder. Thread-safe."""

    def __init__(
        self,
        data: Path | None,
        uploads: Path,
        max_upload_bytes: int | None = None,
        in_use: Callable[[], Collection[Path]] = tuple,
    ) -> None:
        """Create the upload folder.

        Args:
            data: folder of scans, or one scan, which is then the only one.
            uploads: folder for uploaded scans.
            max_upload_bytes: disk quota of all uploads together; None for no limit.
            in_use: returns the scans of open sessions, which are never removed.

        Raises:
            InputError: `data` does not exist.
            OSError: the upload folder cannot be created.
        """
        if data is not None and not data.is_dir() and not _is_scan(data):
            raise InputError(f"{data}: no folder and no scan; name one, or leave it out")
        self._only = data.resolve() if data is not None and _is_scan(data) else None
        self._data = data.resolve() if data is not None and self._only is None else self._only and self._only.parent
        self._uploads, self._max_upload_bytes, self._in_use = uploads, max_upload_bytes, in_use
        self.added = AddedImages(uploads.parent / ADDED)
        self._lock = threading.Lock()
        self._pending_bytes = 0
        """Bytes of uploads that are being written."""
        uploads.mkdir(parents=True, exist_ok=True)

    def list_scans(self) -> list[Scan]:
        """List the scans of the data folder by name, at most MAX_LISTED."""
        if self._data is None:
            return []
        scans = []
        for path in _walk(self._data) if self._only is None else filter(_is_scan, [self._only]):
            if self._opens(path):
                scans.append(self.describe(_encode_id(path.relative_to(self._data).as_posix())))
                if len(scans) == MAX_LISTED:
                    break
        return scans

    def find(self, scan: str) -> Path:
        """Return the path of a scan by its id. Raises InputError for an unknown or forbidden one."""
        path = None
        if scan.startswith(UPLOAD_PREFIX):
            name = scan.removeprefix(UPLOAD_PREFIX)
            if _NAME.fullmatch(name):
                path = next(iter(sorted(self._uploads.glob(f"{name}.*"))), None)
        elif self._data is not None and _is_valid_name(scan) and _is_valid_name(relative := _decode_id(scan)):
            path = self._data / relative
            path = path if self._inside(path) and _is_scan(path) and self._opens(path) else None
        if path is None and not scan.startswith(UPLOAD_PREFIX):
            path = self.added.find(scan)
        if path is None or not _is_scan(path):
            raise NotFoundError("no such scan; ask for the list of scans, or send one")
        return path

    def locate(self, path: Path) -> str | None:
        """Return the id of a scan in the data folder by its path; None if clients may not open it."""
        if self._data is None or not path.is_absolute() or not path.is_relative_to(self._data):
            return None
        scan = _encode_id(path.relative_to(self._data).as_posix())
        return scan if self._exists(scan) else None

    def describe(self, scan: str) -> Scan:
        """Return a scan's id and display name; uploads have no name, since file names may identify patients."""
        return Scan(id=scan, name="sent scan" if scan.startswith(UPLOAD_PREFIX) else printable(_decode_id(scan)))

    def new_upload(self, filename: str) -> tuple[Scan, Path]:
        """Return a new id and path for an upload; only the ending of its file name is used.

        Raises:
            InputError: the file name does not end like a single-file image format.
        """
        name = uuid.uuid4().hex
        return self.describe(UPLOAD_PREFIX + name), self._uploads / (name + upload_ending(filename))

    def receive(self, filename: str, content: IO[bytes]) -> Scan:
        """Save an upload atomically.

        Raises:
            InputError: as :meth:`new_upload`.
            CapacityError: as :meth:`reserve_disk`.
        """
        scan, path = self.new_upload(filename)
        self.write(path, content)
        return scan

    def add(self, name: str, filename: str, content: IO[bytes]) -> Scan:
        """Add an image under an id that the client chose; an earlier one of this id is replaced.

        Raises:
            InputError: as :meth:`new_upload` and :meth:`AddedImages.add`, or the id of a scan in the data folder.
            CapacityError: as :meth:`reserve_disk`.
        """
        if name.startswith(UPLOAD_PREFIX) or (self.added.find(name) is None and self._exists(name)):
            raise InputError("the data folder has a scan of this id already; open that one, or choose another id")
        self.added.add(name, upload_ending(filename), lambda path: self.write(path, content))
        return self.describe(name)

    def _exists(self, scan: str) -> bool:
        try:
            self.find(scan)
        except InputError:
            return False
        return True

    def write(self, path: Path, content: IO[bytes]) -> None:
        """Write an upload atomically. Raises CapacityError as :meth:`reserve_disk`."""
        content.seek(0, os.SEEK_END)
        size = content.tell()
        content.seek(0)
        with self.reserve_disk(size), atomic_write(path) as temporary, temporary.open("wb") as target:
            shutil.copyfileobj(content, target)

    @contextmanager
    def reserve_disk(self, size: int) -> Iterator[None]:
        """Reserve bytes of the upload quota while an upload is written; the least recently used uploads are removed.

        Raises:
            CapacityError: too little space remains beside the uploads in use; none is removed in this case.
        """
        with self._lock:
            self._free_disk(size)
            self._pending_bytes += size
        try:
            yield
        finally:
            with self._lock:
                self._pending_bytes -= size

    def _free_disk(self, size: int) -> None:
        if self._max_upload_bytes is None:
            return
        uploads = {path: path.stat() for path in self._uploads.iterdir() if path.is_file()}
        kept = self.added.nbytes + self._pending_bytes + size
        excess = sum(stat.st_size for stat in uploads.values()) + kept - self._max_upload_bytes
        removed, in_use = [], set(self._in_use())
        for path in sorted(uploads, key=lambda path: uploads[path].st_mtime):
            if excess > 0 and path not in in_use:
                excess -= uploads[path].st_size
                removed.append(path)
        if excess > 0:
            raise CapacityError(
                f"no room for this scan in the {self._max_upload_bytes // 2**20} MB for what is sent; "
                "send a smaller one, or try again later"
            )
        for path in removed:
            path.unlink(missing_ok=True)

    def _opens(self, path: Path) -> bool:
        """Whether clients may open a scan: it lies in the data folder with all files of a series, and is not hidden."""
        assert self._data is not None
        if _is_label(path.relative_to(self._data)) or not self._inside(path) or self._hidden(path):
            return False
        try:  # only links can lead out of the folder
            return all(
                self._inside(link)
                for parent, children, names in os.walk(path)
                for name in (*children, *names)
                if (link := Path(parent, name)).is_symlink()
            )
        except OSError:
            return False

    def _hidden(self, path: Path) -> bool:
        """Whether a path in the data folder, or the target of a link, is hidden; the only scan never is."""
        assert self._data is not None
        parts = [part for form in (path.absolute(), path.resolve()) for part in form.relative_to(self._data).parts]
        return self._only is None and any(part.startswith(".") for part in parts)

    def _inside(self, path: Path) -> bool:
        assert self._data is not None
        try:
            return path.resolve().is_relative_to(self._only or self._data)
        except (OSError, RuntimeError, ValueError):
            return False


def upload_ending(filename: str) -> str:
    """Return the ending of an upload's file name. Raises InputError if it is not that of a single-file image format."""
    ending = next((e for e in _ONE_FILE if filename.lower().endswith(e)), None)
    if ending is None:
        raise InputError("a scan has to be sent as one file: .nii.gz, .nii, .nrrd, .mha, or DICOM files in a .zip")
    return ending


def read_scan(path: Path, channels: int, max_voxels: int) -> Volume:
    """Read an image for a model.

    Args:
        path: file or DICOM folder.
        channels: number of the model's channels; if there are several, frames of the image are channels.
        max_voxels: largest number of voxels that is read.

    Raises:
        InputError: not readable, or too many voxels.
    """
    with open_series_folder(path) as unpacked:  # unpacks an archive once for both reads
        voxels = count_voxels(unpacked)
        if voxels > max_voxels:
            raise InputError(f"{voxels} voxels, more than the {max_voxels} that this server opens; crop the scan")
        return read_image(unpacked, frames_as_channels=channels > 1)


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the scans in a folder and its subfolders."""
    try:
        paths = sorted(folder.iterdir())
    except OSError:
        return
    for path in paths:
        if is_litter(PurePath(path.name)):
            continue
        if _is_scan(path):
            yield path
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)


def _encode_id(name: str) -> str:
    """Id of a scan by its path: the path itself, or percent-encoded where it is not text, which JSON cannot hold."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return BYTES_PREFIX + quote_from_bytes(os.fsencode(name))
    return name


def _decode_id(scan: str) -> str:
    """Path of a scan by its id."""
    if not scan.startswith(BYTES_PREFIX):
        return scan
    return os.fsdecode(unquote_to_bytes(scan.removeprefix(BYTES_PREFIX)))


def _is_label(path: PurePath) -> bool:
    """Whether a path in the data folder is a label of MONAI Label's own server: ``labels/final/scan.nii.gz``."""
    return any(pair in _LABEL_FOLDERS for pair in pairwise(path.parts))


def _is_valid_name(scan: str) -> bool:
    """Whether a name is a path down from a folder; on Windows, looking up a UNC path can contact another machine."""
    foreign = _WINDOWS and ("\\" in scan or PureWindowsPath(scan).anchor != "")
    path = PurePosixPath(scan)
    return scan != "" and "\0" not in scan and not foreign and not path.is_absolute() and ".." not in path.parts


def _is_scan(path: Path) -> bool:
    """Whether a path is a file with the ending of an image format, or a folder of DICOM files."""
    try:
        if path.is_dir():
            return has_dicom_files(path)
        return path.is_file() and path.name.lower().endswith(_ONE_FILE)
    except OSError:
        return False
