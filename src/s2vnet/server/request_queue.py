"""Queues for slow requests, so that they do not occupy the server's shared worker threads.

There are few shared threads, and opening a scan takes up to minutes. A session handles one request at a time anyway, so
its requests are queued for a thread of their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

TIMEOUT_S = 600.0
"""Time limit of a request in seconds, including waiting."""
Result = TypeVar("Result")


class RequestQueue:
    """Queue that runs one function at a time in a thread; to be used within the server's event loop."""

    def __init__(self) -> None:
        self._limiter: CapacityLimiter | None = None  # needs an event loop

    async def run(self, function: Callable[[float], Result]) -> Result:
        """Return the result of a function, called in its turn with the seconds left until the timeout."""
        self._limiter = self._limiter or CapacityLimiter(1)
        end = time.monotonic() + TIMEOUT_S
        return await to_thread.run_sync(lambda: function(max(0.0, end - time.monotonic())), limiter=self._limiter)
