"""The host of the page without a server answers with the headers that threads need, and only from its folder."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from s2vnet.errors import InputError
from s2vnet.server.static_host import host_page
from s2vnet.server.static_page import HEADERS


def test_files_have_the_headers_and_types_that_browsers_need(tmp_path: Path) -> None:
    page = tmp_path / "page"
    page.mkdir()
    for name in ("index.html", "ort.mjs", "ort.wasm"):
        (page / name).write_bytes(b"content")
    (tmp_path / "secret.txt").write_bytes(b"secret")
    with host_page(page) as address:
        for path, kind in (("", "text/html"), ("ort.mjs", "text/javascript"), ("ort.wasm", "application/wasm")):
            response = httpx2.get(address + path)
            assert response.content == b"content"
            assert response.headers["content-type"] == kind
            assert HEADERS.items() <= dict(response.headers).items()
        assert httpx2.get(f"{address}%2e%2e/secret.txt").status_code == 404


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with host_page(tmp_path) as address:
        port = urlsplit(address).port
        assert port is not None
        with pytest.raises(InputError, match=f"port {port}: .*--port"), host_page(tmp_path, port):
            pass
    with host_page(tmp_path, port):  # free again
        pass
