"""Where requests wait that may wait long, so that nobody else has to wait for them.

The server's common threads are few, and a scan takes its minutes to open. A session answers one request at a time
anyway, so those for it stand in line for one thread of their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

WAIT_S = 600.0
"""Longest that a request waits, in the line and for what it asks."""
Result = TypeVar("Result")


class RequestQueue:
    """A thread for one call after the other; to be used within the server's event loop."""

    def __init__(self) -> None:
        self._limiter: CapacityLimiter | None = None  # made where there is an event loop

    async def run(self, call: Callable[[float], Result]) -> Result:
        """What a call gives when its turn has come; it is told the seconds that it may still wait."""
        self._limiter = self._limiter or CapacityLimiter(1)
        end = time.monotonic() + WAIT_S
        return await to_thread.run_sync(lambda: call(max(0.0, end - time.monotonic())), limiter=self._limiter)
