"""A real archive: Orthanc with its DICOMweb plugin (Debian: orthanc, orthanc-dicomweb), with a temporary store."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

PROGRAM = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
USER, PASSWORD = "reader", "correct horse"
PATIENCE_S = 60.0


class Orthanc:
    """An archive on a free port of this machine; its store outlives its process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"dicomweb://127.0.0.1:{self.port}/dicom-web"
        self.root = f"http://127.0.0.1:{self.port}"

    def start(self, **options: Any) -> None:
        """Start the process, and wait until it answers."""
        store = str(self._folder / "store")
        configuration = {
            "StorageDirectory": store,
            "IndexDirectory": store,
            "HttpPort": self.port,
            "DicomServerEnabled": False,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {USER: PASSWORD},
            "Plugins": [str(PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        } | options
        file = self._folder / "orthanc.json"
        file.write_text(json.dumps(configuration))
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen([PROGRAM, str(file)], stdout=log, stderr=log)
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            assert self._process.poll() is None, (self._folder / "log").read_text()[-2000:]
            try:
                self.get("/system")
                return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.05)
        raise AssertionError("Orthanc does not answer")

    def kill(self) -> None:
        """End the process at once, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def get(self, path: str) -> Any:
        """Answer of Orthanc's own API."""
        return json.loads(self._request(path))

    def add(self, files: Iterable[Path]) -> None:
        """Store DICOM files by Orthanc's own API."""
        for file in files:
            self._request("/instances", file.read_bytes())

    def objects(self, modality: str) -> list[bytes]:
        """Files of all objects of a modality."""
        series = [self.get(f"/series/{name}") for name in self.get("/series")]
        chosen = [each for each in series if each["MainDicomTags"].get("Modality") == modality]
        return [self._request(f"/instances/{name}/file") for each in chosen for name in each["Instances"]]

    def _request(self, path: str, body: bytes | None = None) -> bytes:
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        request = urllib.request.Request(self.root + path, body, {"Authorization": f"Basic {login}"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=PATIENCE_S) as answer:
            return bytes(answer.read())


@pytest.fixture
def orthanc(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Orthanc]:
    """An empty archive that runs; its credentials are in the environment."""
    if not Path(PROGRAM).is_file() or not PLUGIN.is_file():
        pytest.skip("Orthanc and its DICOMweb plugin are not installed (Debian: orthanc, orthanc-dicomweb)")
    monkeypatch.setenv("S2VNET_DICOMWEB_USER", USER)
    monkeypatch.setenv("S2VNET_DICOMWEB_PASSWORD", PASSWORD)
    archive = Orthanc(tmp_path_factory.mktemp("orthanc"))
    archive.start()
    yield archive
    archive.kill()
