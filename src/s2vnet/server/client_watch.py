"""Notice of clients that close their connection while they wait, so that nothing is computed for them any more."""

from __future__ import annotations

import asyncio
import threading

from fastapi import Request

from s2vnet.errors import InputError

POLL_S = 1.0
"""Seconds between two looks at a connection."""


class ClientGone(InputError):
    """The client no longer waits for the response."""


class ClientWatch:
    """Whether the client of a request still waits for the response."""

    def __init__(self, request: Request) -> None:
        """The request's body must have been read."""
        self._request, self._gone = request, threading.Event()

    async def follow(self) -> None:
        """Look at the connection until the client closes it; to be run beside the request."""
        while not await self._request.is_disconnected():
            await asyncio.sleep(POLL_S)
        self._gone.set()

    def require(self) -> None:
        """Raise ClientGone if the client has closed the connection. Safe to call from any thread."""
        if self._gone.is_set():
            raise ClientGone("the client has closed the connection")
