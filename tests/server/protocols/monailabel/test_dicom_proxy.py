"""OHIF's way to a DICOMweb archive."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from s2vnet.errors import InputError
from s2vnet.server.protocols.monailabel.dicom_proxy import archive_url

TOKEN = "a-secret-of-many-characters"


@pytest.fixture
def archive() -> Iterator[tuple[str, list[tuple[str, str, bytes]]]]:
    """Address of an archive, and the requests that it received."""
    received: list[tuple[str, str, bytes]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            received.append((self.command, self.path, body))
            status = 404 if "missing" in self.path else 302 if "elsewhere" in self.path else 200
            content = f"{self.headers['accept']} {self.headers.get('authorization')}".encode() * 100_000
            self.send_response(status)
            self.send_header("content-type", "application/dicom+json")
            self.send_header("location", "http://127.0.0.1:9/")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/dicom-web/", received
    server.shutdown()
    server.server_close()


def test_requests_reach_the_archive_and_answers_the_client(
    serve: Callable[..., TestClient], archive: tuple[str, list[tuple[str, str, bytes]]]
) -> None:
    address, received = archive
    client = serve(dicom_proxy=address, token=TOKEN)
    headers = {"authorization": f"Bearer {TOKEN}", "accept": "application/dicom+json"}
    found = client.get("/proxy/dicom/qido/studies?PatientName=D%5EJ%20x&limit=5", headers=headers)
    assert (found.status_code, found.headers["content-type"]) == (200, "application/dicom+json")
    assert found.content == b"application/dicom+json None" * 100_000  # the token is the server's alone
    assert client.get(f"/token/{TOKEN}/monailabel/proxy/dicom/wado/studies/1.2/series/1.3/metadata").status_code == 200
    stow = {**headers, "content-type": "multipart/related; boundary=x"}
    assert client.post("/proxy/dicom/stow/studies", content=b"images", headers=stow).status_code == 200
    assert client.get(f"/proxy/dicom/studies?token={TOKEN}").status_code == 200
    assert received == [
        ("GET", "/dicom-web/studies?PatientName=D%5EJ+x&limit=5", b""),
        ("GET", "/dicom-web/studies/1.2/series/1.3/metadata", b""),
        ("POST", "/dicom-web/studies", b"images"),
        ("GET", "/dicom-web/studies", b""),
    ]
    assert client.get("/proxy/dicom/wado/missing", headers=headers).status_code == 404
    assert client.get("/proxy/dicom/elsewhere", headers=headers, follow_redirects=False).status_code == 302
    assert client.get("/proxy/dicom/qido/studies").status_code == 401


def test_an_archive_that_is_not_there(serve: Callable[..., TestClient]) -> None:
    assert "names one by" in serve().get("/proxy/dicom/qido/studies").json()["detail"]
    away = serve(dicom_proxy="http://127.0.0.1:9/dicom-web").get("/proxy/dicom/qido/studies")
    assert (away.status_code, away.json()["detail"]) == (502, "the DICOM archive does not answer")


@given(st.text(max_size=20), st.text(max_size=20))
def test_no_path_leads_out_of_the_archive(path: str, query: str) -> None:
    try:
        url = archive_url("http://archive:8042/dicom-web", path, query)
    except InputError:
        return
    assert url.startswith("http://archive:8042/dicom-web/")
    assert "/../" not in f"{url}/"
    assert url.isascii()
