"""Routes for sessions: scans that a client uploads for several requests."""

from __future__ import annotations

import contextlib
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from fastapi import APIRouter, UploadFile
from fastapi.responses import FileResponse

from s2vnet.errors import InputError, NotFoundError
from s2vnet.io.dicom.folders import MAX_FILES
from s2vnet.io.dicom.zip_archive import ENDING as ZIP
from s2vnet.server.protocols.monailabel.service import MonaiLabel, ServiceDep
from s2vnet.server.scan_library import UPLOAD_PREFIX

_CHUNK_NBYTES = 1 << 20
router = APIRouter()


@router.put("/session/")
def create_session(service: ServiceDep, files: list[UploadFile]) -> dict[str, Any]:
    """Upload a scan for several requests: one file, or all files of a DICOM series."""
    name = receive(service, files).removeprefix(UPLOAD_PREFIX)
    return {"session_id": name, "session_info": _session_info(service, name)}


@router.get("/session/{name}")
def get_session(service: ServiceDep, name: str, image: bool = False) -> Any:
    """Return a session, or its image, if it still exists."""
    path = session_scan(service, name)
    return FileResponse(path, filename=path.name) if image else _session_info(service, name)


@router.delete("/session/{name}")
def remove_session(service: ServiceDep, name: str) -> dict[str, Any]:
    """End a session and delete its scan."""
    path, information = session_scan(service, name), _session_info(service, name)
    service.end_session(UPLOAD_PREFIX + name)
    path.unlink(missing_ok=True)
    return information


def receive(service: MonaiLabel, files: list[UploadFile]) -> str:
    """Save an upload of one file, or of the files of a DICOM series as an archive; return its id.

    Raises:
        InputError: no file, too many, or one of a format that is not read.
        CapacityError: as :meth:`ScanLibrary.receive`.
    """
    scans = service.store.scans
    if len(files) == 1 and not _is_dicom(files[0]):
        return scans.receive(files[0].filename or "", files[0].file).id
    if not files or len(files) > MAX_FILES or not all(map(_is_dicom, files)):
        raise InputError("a session takes one file, or all files of one DICOM series")
    with tempfile.TemporaryFile() as packed:
        with zipfile.ZipFile(packed, "w") as archive:
            for number, file in enumerate(files):
                with archive.open(f"{number:05d}.dcm", "w") as target:
                    while chunk := file.file.read(_CHUNK_NBYTES):
                        target.write(chunk)
        return scans.receive(f"series{ZIP}", packed).id


def session_scan(service: MonaiLabel, name: str) -> Path:
    """Return the path of a session's scan, which has the session's name, and mark it as used now."""
    try:
        path = service.store.scans.find(UPLOAD_PREFIX + name)
    except InputError as error:
        raise NotFoundError("no such session; send the scan again") from error
    with contextlib.suppress(OSError):
        os.utime(path)
    return path


def _is_dicom(file: UploadFile) -> bool:
    """Whether a file is DICOM (PS3.10): 128 bytes, then DICM."""
    head = file.file.read(132)
    file.file.seek(0)
    return head[128:] == b"DICM"


def _session_info(service: MonaiLabel, name: str) -> dict[str, Any]:
    last_used, days = session_scan(service, name).stat().st_mtime, service.store.settings.keep_days
    return {
        "name": name,
        "image": UPLOAD_PREFIX + name,
        "last_access_ts": int(last_used),
        "expiry": int(days * 86400),
        "meta": {},
    }
