"""Host for the page without a server (:mod:`s2vnet.server.static_page`) on this machine; it knows no scans."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from s2vnet.errors import InputError
from s2vnet.server.static_page import HEADERS

_ADDRESS = "127.0.0.1"


class _Handler(SimpleHTTPRequestHandler):
    """Files with the headers that threads need, also for a browser's first visit."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript", ".wasm": "application/wasm"}

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("cache-control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@contextmanager
def host_page(folder: Path, port: int = 0) -> Iterator[str]:
    """Serve a page's folder until the block ends; yield its address.

    Raises:
        InputError: the port is in use.
    """
    try:
        server = ThreadingHTTPServer((_ADDRESS, port), partial(_Handler, directory=str(folder)))
    except OSError as error:
        raise InputError(f"port {port}: {error.strerror}; name another with --port, or 0 for a free one") from error
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{_ADDRESS}:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
