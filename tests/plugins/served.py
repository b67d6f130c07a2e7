"""A server for a process of its own, which has to find this by name."""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import Any

from s2vnet.server.run import run
from s2vnet.server.settings import Settings


def serve(settings: Settings, tell: Connection) -> None:
    """Run a server, and tell its address."""

    def started(address: str, *_: Any) -> None:
        tell.send(address)

    run(settings, started)
