"""Token and ports of the viewer, kept with its state so that open pages connect again after a restart."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

from s2vnet.utils.atomic_write import atomic_write
from s2vnet.utils.json_io import read_json

FILE = "viewer.json"
_TOKEN_BYTES = 24
_PRIVATE = 0o600


class SavedAddress:
    """Address at which the viewer of a scan, or of a folder of scans, was served last.

    The file is readable by its owner alone. It names scans by hashes of their paths.
    """

    def __init__(self, state: Path, scan: Path | None) -> None:
        """Read the file in a state folder; one that other users can read is not used."""
        self._path = state / FILE
        self._scan = hashlib.sha256(str(scan and scan.absolute()).encode(errors="surrogateescape")).hexdigest()[:16]
        content = self._read()
        self.token: str = content.get("token") or secrets.token_urlsafe(_TOKEN_BYTES)
        """Token that every client has to send; the same for all scans."""
        self.port: int | None = content["ports"].get(self._scan)
        """Port at which this scan was served last."""

    def _read(self) -> dict[str, Any]:
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            content = read_json(self._path)
            private = os.name == "nt" or self._path.stat().st_mode & 0o077 == 0
            ports = {str(scan): int(port) for scan, port in content["ports"].items()}
            if private and isinstance(content["token"], str) and len(content["token"]) >= _TOKEN_BYTES:
                return {"token": content["token"], "ports": ports}
        return {"ports": {}}

    def save(self, port: int) -> None:
        """Keep the token, and the port of this scan. Raises InputError when the file cannot be written."""
        ports = self._read()["ports"] | {self._scan: port}
        content = json.dumps({"token": self.token, "ports": ports})
        with atomic_write(self._path) as temporary:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
            with os.fdopen(descriptor, "w") as file:
                file.write(content)
