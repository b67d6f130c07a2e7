"""Ids by which MONAI Label's clients name images, and what the protocol says about an image's file."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from s2vnet.errors import InputError
from s2vnet.io.dicom.references import series_attributes
from s2vnet.io.files import read_image, write_image
from s2vnet.server.protocols.monailabel.saved_labels import LABEL_ENDING
from s2vnet.server.scan_library import ScanLibrary, upload_ending
from s2vnet.server.signed_ids import sign, unsign

CONVERTED_ENDING = ".nii"
"""Ending of a DICOM series that is sent as one file."""
Value = TypeVar("Value")
SERIES_UID, STUDY_UID = "SeriesInstanceUID", "StudyInstanceUID"
SHOWN_ATTRIBUTES = ("Modality", "StudyDate", "StudyTime", STUDY_UID, SERIES_UID)
"""DICOM attributes that OHIF shows of the next sample."""


class ImageIds:
    """Ids of images: paths in the data folder, ids of added images and uploads, and SeriesInstanceUIDs. Thread-safe."""

    def __init__(self, scans: ScanLibrary, token: str | None) -> None:
        self._scans, self._token = scans, token
        self._lock = threading.Lock()
        self._cache: dict[tuple[str, str], tuple[object, object]] = {}
        """By kind of value and path: version of the file or folder, and the value."""
        self._series: dict[str, str] = {}
        """Id of the folder in which a SeriesInstanceUID was found, since a search reads the whole data folder."""

    def all(self) -> list[str]:
        """Return the ids of all images in the data folder, and of all that clients added."""
        return [scan.id for scan in self._scans.list_scans()] + self._scans.added.names()

    def resolve(self, image: str) -> str:
        """Return the library's id of an image. Raises InputError if there is none."""
        image = unsign(image, self._token) or image
        try:
            self._scans.find(image)
        except InputError:
            if (series := self._find_series(image)) is None:
                raise
            return series
        return image

    def public(self, scan: str) -> str:
        """Return the id that clients are given, see :mod:`s2vnet.server.signed_ids`."""
        return sign(scan, self._token)

    def attributes(self, scan: str) -> dict[str, str]:
        """Return identifying attributes of a DICOM series by their keywords; none for other images."""
        path = self._scans.find(scan)
        if not path.is_dir():
            return {}
        return self._cached("attributes", path, lambda: series_attributes(path, SHOWN_ATTRIBUTES))

    def checksum(self, scan: str) -> str:
        """Return ``SHA256:`` and the hash of the file that a client downloads."""
        path = self._scans.find(scan)
        return "SHA256:" + self._cached("checksum", path, lambda: _hash(path))

    def download_name(self, scan: str) -> str:
        """Return a file name that is different for every image, because 3D Slicer caches downloads by name."""
        path = self._scans.find(scan)
        ending = CONVERTED_ENDING if path.is_dir() else upload_ending(path.name)
        stem = "".join(c if c.isalnum() or c in "-_." else "_" for c in Path(scan).name.removesuffix(ending))
        return f"{stem[:80]}-{hashlib.sha256(scan.encode()).hexdigest()[:12]}{ending}"

    def label_name(self, scan: str) -> str:
        """Return the file name of an image's labels: that of the image, but for the ending."""
        name = self.download_name(scan)
        return name.removesuffix(upload_ending(name)) + LABEL_ENDING

    def _find_series(self, uid: str) -> str | None:
        """Return the id of the DICOM folder in the data folder with a SeriesInstanceUID."""
        if not uid or not all(part.isdecimal() for part in uid.split(".")):
            return None
        known = self._series.get(uid)
        if known is not None and self._has_uid(known, uid):
            return known
        found = next((scan.id for scan in self._scans.list_scans() if self._has_uid(scan.id, uid)), None)
        if found is not None:
            self._series[uid] = found
        return found

    def _has_uid(self, scan: str, uid: str) -> bool:
        """Whether an image is, as it is now on the disk, the series of a UID."""
        try:
            return self.attributes(scan).get(SERIES_UID) == uid
        except InputError:  # it has gone
            return False

    def _cached(self, kind: str, path: Path, compute: Callable[[], Value]) -> Value:
        version = _version(path)
        with self._lock:
            known = self._cache.get((kind, str(path)))
        if known is not None and known[0] == version:
            return known[1]  # type: ignore[return-value]
        value = compute()
        with self._lock:
            self._cache[kind, str(path)] = (version, value)
        return value


def write_converted(path: Path, series: Path) -> None:
    """Write a DICOM series as one NIfTI file, equal bytes each time. Raises InputError for a damaged series."""
    write_image(path, read_image(series))


def _version(path: Path) -> object:
    """Return what changes when a file or one of a folder's files is written."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [(file.name, stat.st_mtime_ns, stat.st_size) for file in files if (stat := file.stat())]


def _hash(path: Path) -> str:
    if path.is_dir():
        with tempfile.TemporaryDirectory(prefix="s2vnet-") as folder:
            write_converted(Path(folder) / f"image{CONVERTED_ENDING}", path)
            return _hash(Path(folder) / f"image{CONVERTED_ENDING}")
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
