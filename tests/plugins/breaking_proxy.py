"""A TCP proxy on a port of this machine that can break: in the middle of an upload or a download."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


class BreakingProxy:
    """Forwards connections to another port until so many bytes have passed after a marker; then it breaks, once."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._limits: dict[str, tuple[bytes, int, Callable[[], None]]] = {}
        self.broken = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def break_after(self, direction: str, marker: bytes, size: int, action: Callable[[], None] = lambda: None) -> None:
        """Break after so many bytes behind a marker, ``up`` or ``down``: call a function, then close the connection."""
        self._limits[direction] = (marker, size, action)

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    client.close()
                    continue
                for direction, source, target in (("up", client, server), ("down", server, client)):
                    threading.Thread(target=self._forward, args=(direction, source, target), daemon=True).start()

    def _forward(self, direction: str, source: socket.socket, target: socket.socket) -> None:
        passed: int | None = None
        with suppress(OSError):
            while data := source.recv(4096):
                limit = self._limits.get(direction)
                if limit is not None and (passed is not None or limit[0] in data):
                    passed = len(data) + (passed or 0)
                    if passed > limit[1]:
                        del self._limits[direction]
                        self.broken += 1
                        limit[2]()
                        break
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextmanager
def breaking_proxy(port: int) -> Iterator[BreakingProxy]:
    """Run a proxy of a port."""
    proxy = BreakingProxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
