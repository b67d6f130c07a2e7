"""Access control, rate limits and size limits."""

from __future__ import annotations

import contextlib
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError
from starlette.websockets import WebSocketDisconnect

from s2vnet.server.security import MAX_OPERATION_BYTES, SecurityMiddleware
from s2vnet.server.settings import Settings

TOKEN = "a secret of many characters"
LOCAL = "ws://127.0.0.1:1537"


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "::", "scanner.example.org"])
def test_public_addresses_need_a_token(settings: Callable[..., Settings], host: str) -> None:
    with pytest.raises(ValidationError, match="needs a token"):
        settings(host=host)
    assert settings(host=host, token=TOKEN).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_local_addresses_need_no_token(settings: Callable[..., Settings], host: str) -> None:
    assert settings(host=host).token is None


def test_a_short_token_is_refused(settings: Callable[..., Settings]) -> None:
    with pytest.raises(ValidationError, match="at least 16 characters"):
        settings(token="1234")


def test_the_token_is_not_in_the_repr(settings: Callable[..., Settings]) -> None:
    assert TOKEN not in repr(settings(token=TOKEN))


@pytest.mark.parametrize(
    ("headers", "query", "status"),
    [
        ({}, "", 401),
        ({"authorization": "Bearer wrong"}, "", 401),
        ({"authorization": f"Basic {TOKEN}"}, "", 401),
        ({"cookie": "s2vnet_token_1538=" + TOKEN.replace(" ", "")}, "", 401),
        ({"cookie": ";;=\x7f"}, "", 401),
        ({"authorization": f"Bearer {TOKEN}"}, "", 200),
        ({"authorization": f"bearer {TOKEN}"}, "", 200),
        ({"authorization": "Basic " + b64encode(b"x:wrong").decode()}, "", 401),
        ({"authorization": "Basic " + b64encode(f"x:{TOKEN}".encode()).decode()}, "", 200),
        ({}, f"?token={TOKEN}", 200),
    ],
)
def test_requests_without_the_token_are_refused(
    serve: Callable[..., TestClient], headers: dict[str, str], query: str, status: int
) -> None:
    assert serve(token=TOKEN).get(f"/api/info{query}", headers=headers).status_code == status


def test_every_path_but_health_needs_the_token(serve: Callable[..., TestClient]) -> None:
    client = serve(token=TOKEN)
    for path in ("/", "/index.html", "/openapi.json", "/api/scans"):
        assert client.get(path).status_code == 401
    assert client.get("/healthz").status_code == 200
    with pytest.raises(WebSocketDisconnect), client.websocket_connect(f"{LOCAL}/api/sessions/{'0' * 32}/live"):
        pass


def test_a_browser_gets_a_cookie_and_a_redirect(serve: Callable[..., TestClient]) -> None:
    client = serve(token=TOKEN)
    answer = client.get("/", params={"token": TOKEN}, follow_redirects=False)
    assert answer.headers["location"] == "/"
    assert "httponly" in answer.headers["set-cookie"].lower()
    assert "samesite=strict" in answer.headers["set-cookie"].lower()
    assert client.get("/api/info").status_code == 200


@pytest.mark.parametrize("host", ["evil.example.org", "evil.example.org:1537", "127.0.0.1.evil.org", "", "[::1"])
def test_other_host_names_are_refused(client: TestClient, host: str) -> None:
    assert client.get("/api/info", headers={"host": host}).status_code in (400, 403)


@pytest.mark.parametrize("host", ["localhost:1537", "127.0.0.1", "[::1]:1537"])
def test_local_host_names_are_accepted(client: TestClient, host: str) -> None:
    assert client.get("/api/info", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example.org", "http://127.0.0.1:8000", "null", "http://[::1"])
def test_foreign_origins_are_refused(client: TestClient, origin: str) -> None:
    refused = client.post("/api/sessions", json={"image": "one.nii.gz"}, headers={"origin": origin})
    assert refused.status_code in (400, 403)
    assert "access-control-allow-origin" not in refused.headers
    address = f"{LOCAL}/api/sessions/{'0' * 32}/live"
    with pytest.raises(WebSocketDisconnect), client.websocket_connect(address, headers={"origin": origin}):
        pass


def test_the_own_origin_is_accepted(client: TestClient) -> None:
    answer = client.get("/api/scans", headers={"origin": "http://127.0.0.1:1537"})
    assert answer.status_code == 200
    assert "default-src 'self'" in answer.headers["content-security-policy"]


def test_requests_beyond_the_rate_limit_are_refused(serve: Callable[..., TestClient]) -> None:
    client = serve(requests_per_minute=5)
    codes = [client.get("/healthz").status_code for _ in range(7)]
    assert codes == [200] * 5 + [429] * 2


def test_messages_beyond_the_rate_limit_are_delayed(serve: Callable[..., TestClient]) -> None:
    client = serve(requests_per_minute=5)
    name = client.post("/api/sessions", json={"image": "one.nii.gz"}).json()["session"]
    with client.websocket_connect(f"{LOCAL}/api/sessions/{name}/live") as socket:
        problems: Queue[str] = Queue()

        def listen() -> None:
            with contextlib.suppress(Exception):
                while True:
                    message = socket.receive()
                    if "no operation" in (message.get("text") or ""):
                        problems.put(message["text"])

        threading.Thread(target=listen, daemon=True).start()
        for _ in range(4):
            socket.send_text("{}")
        for _ in range(3):  # two requests were before them
            problems.get(timeout=20)
        with pytest.raises(Empty):
            problems.get(timeout=0.6)
        assert client.get("/healthz").status_code == 429
        layer: Any = client.app.middleware_stack  # type: ignore[attr-defined]
        while not isinstance(layer, SecurityMiddleware):
            layer = layer.app
        layer._limiter.storage.reset()  # as if a minute had passed
        problems.get(timeout=20)


@pytest.mark.parametrize("stated", [True, False])
def test_an_upload_over_the_limit_is_not_saved(
    serve: Callable[..., TestClient], settings: Callable[..., Settings], stated: bool
) -> None:
    client = serve(max_upload_mb=1)
    content = b"0" * (2 << 20)

    def parts() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.nii"\r\n\r\n'
        yield from (content[n : n + 65536] for n in range(0, len(content), 65536))
        yield b"\r\n--x--\r\n"

    if stated:
        answer = client.post("/api/scans", files={"file": ("a.nii", content)})
    else:
        answer = client.post("/api/scans", content=parts(), headers={"content-type": "multipart/form-data; boundary=x"})
    assert answer.status_code == 413
    assert list((settings().state / "sent").iterdir()) == []


def test_raw_arrays_are_accepted_by_nninteractive_only(serve: Callable[..., TestClient]) -> None:
    client, array = serve(), {"content-type": "application/octet-stream"}
    content = b"0" * (MAX_OPERATION_BYTES + 1)
    assert client.post("/api/sessions", content=content, headers=array).status_code == 413
    token = client.post("/nninteractive/2/claim").json()["lease_token"]
    headers = array | {"x-lease-token": token}
    assert client.post("/nninteractive/set_image", content=content, headers=headers).status_code == 422


def test_a_volume_over_the_limit_is_not_read(serve: Callable[..., TestClient]) -> None:
    client = serve(max_voxels=1000)
    name = client.post("/api/sessions", json={"image": "one.nii.gz"}).json()["session"]
    answer = client.get(f"/api/sessions/{name}/labels")
    assert answer.status_code == 422
    assert "4680 voxels, more than the 1000" in answer.json()["detail"]


def test_frames_count_as_voxels_before_they_are_read(serve: Callable[..., TestClient], tmp_path: Path) -> None:
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    nib.save(nib.Nifti1Image(np.zeros((18, 20, 13, 50), np.int16), affine), tmp_path / "many.nii.gz")
    client = serve(data=tmp_path, max_voxels=5000)
    name = client.post("/api/sessions", json={"image": "many.nii.gz"}).json()["session"]
    answer = client.get(f"/api/sessions/{name}/labels")
    assert answer.status_code == 422
    assert "234000 voxels, more than the 5000" in answer.json()["detail"]


def test_allowed_origins_may_read_and_others_may_not(serve: Callable[..., TestClient]) -> None:
    """As OHIF, which is served from elsewhere; its preflight requests carry no token."""
    origin = "https://ohif.example.org"
    client = serve(allow_origins=(origin,), token=TOKEN)
    asked = {"access-control-request-method": "PUT", "access-control-request-headers": "authorization,content-type"}
    preflight = client.options("/monailabel/datastore/label", headers={"origin": origin, **asked})
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == origin
    assert "PUT" in preflight.headers["access-control-allow-methods"]
    headers = {"origin": origin, "authorization": f"Bearer {TOKEN}"}
    answer = client.get("/monailabel/info/", headers=headers)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, origin)
    assert client.get("/monailabel/info/", headers={"origin": origin}).status_code == 401
    for other in ("https://ohif.example.org:8443", "http://ohif.example.org", "https://evil.example.org", "null"):
        refused = client.get("/monailabel/info/", headers={**headers, "origin": other})
        assert refused.status_code == 403
        assert "access-control-allow-origin" not in refused.headers
        assert client.options("/monailabel/info/", headers={"origin": other, **asked}).status_code == 400


@pytest.mark.parametrize(
    "origin", ["*", "null", "ohif.example.org", "https://ohif.example.org/", "ftp://a", "https://a/b"]
)
def test_only_origins_can_be_allowed(settings: Callable[..., Settings], origin: str) -> None:
    with pytest.raises(ValidationError, match="is no origin"):
        settings(allow_origins=(origin,))


def test_patients_data_are_not_cached_and_the_viewer_is_asked_about(client: TestClient) -> None:
    assert client.get("/api/scans").headers["cache-control"] == "no-store"
    assert client.get("/main.js").headers["cache-control"] == "no-cache"
