"""Server for a process of its own: multiprocessing needs an importable function."""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import Any

from s2vnet.server.run import run
from s2vnet.server.settings import Settings


def serve(settings: Settings, connection: Connection) -> None:
    """Run a server, and send its address through a connection."""

    def started(address: str, *_: Any) -> None:
        connection.send(address)

    run(settings, started)
