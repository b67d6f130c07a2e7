"""Queues for slow requests, so that they do not occupy the server's shared worker threads.

There are few shared threads, and opening a scan takes up to minutes. A session handles one request at a time anyway, so
its requests are queued for a thread of their own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

from s2vnet.server.client_watch import ClientWatch

TIMEOUT_S = 600.0
"""Time limit of a request in seconds, including waiting."""
Result = TypeVar("Result")


class RequestQueue:
    """Queue that runs one function at a time in a thread; to be used within the server's event loop."""

    def __init__(self) -> None:
        self._limiter: CapacityLimiter | None = None  # needs an event loop

    @property
    def num_waiting(self) -> int:
        """Number of requests that wait for their turn."""
        return 0 if self._limiter is None else self._limiter.statistics().tasks_waiting

    @property
    def num_open(self) -> int:
        """Number of requests that run or wait."""
        return 0 if self._limiter is None else self._limiter.borrowed_tokens + self.num_waiting

    async def run(self, function: Callable[[float], Result], client: ClientWatch | None = None) -> Result:
        """Return the result of a function, called in its turn with the seconds left until the timeout.

        Args:
            function: the request; a client that leaves before its turn is not served.
            client: watched meanwhile, so that `function` can ask whether it still waits.

        Raises:
            ClientGone: the client has left before its turn.
        """
        self._limiter = limiter = self._limiter or CapacityLimiter(1)
        end = time.monotonic() + TIMEOUT_S

        def call() -> Result:
            if client is not None:
                client.require()
            return function(max(0.0, end - time.monotonic()))

        if client is None:
            return await to_thread.run_sync(call, limiter=limiter)
        watching = asyncio.create_task(client.follow())
        try:
            return await to_thread.run_sync(call, limiter=limiter)
        finally:
            watching.cancel()
