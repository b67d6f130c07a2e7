"""LRU memory budget over sessions and the models they share.

Active sessions are pinned; the least recently used ones are offloaded first.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from s2vnet.errors import InputError
from s2vnet.utils.byte_sizes import format_size

POLL_S = 0.5
"""Polling interval of a waiting session in seconds; sessions are also closed without a notification."""
_log = logging.getLogger(__name__)


class Offloadable(Protocol):
    """Interface of a session whose memory is managed."""

    name: str
    last_used: float
    """Monotonic time of the client's last request, seconds."""

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""

    @property
    def offloaded_nbytes(self) -> int:
        """Additional bytes once offloaded features are loaded again, or the image has been encoded."""

    @property
    def closed(self) -> bool:
        """Whether the session has been closed."""

    def offload(self) -> None:
        """Move cached features to the disk. Raises InputError when they cannot be written."""


class SessionMemoryBudget:
    """Memory limit for all sessions together. Thread-safe.

    A session that computes is active and is never offloaded; others are offloaded as needed. A session that exceeds the
    limit waits until active ones have finished; a session that is the only active one may exceed it.
    """

    def __init__(
        self,
        limit: int,
        sessions: Callable[[], Iterable[Offloadable]],
        resident: int = 0,
        shared_nbytes: Callable[[], int] = int,
    ) -> None:
        """Create the budget.

        Args:
            limit: of the process, bytes.
            sessions: returns all open sessions.
            resident: bytes that the process takes without any session.
            shared_nbytes: returns the bytes of what sessions have loaded since and share, such as models.

        Raises:
            InputError: nothing is left for sessions.
        """
        if limit < resident:
            least = -(-2 * resident // 2**20)
            raise InputError(
                f"the server takes {format_size(resident)} without a scan, more than the {format_size(limit)} it may; "
                f"start it with -n memory_mb={least} or more"
            )
        self.limit, self._sessions, self._resident = limit - resident, sessions, resident
        self._shared_nbytes = shared_nbytes
        self.unpacking = threading.Lock()
        """Held while an image that was sent as an array is unpacked, one at a time."""
        self._released = threading.Condition()
        self._active: list[Offloadable] = []
        self._opening: list[Offloadable] = []

    def require(self, needed: int) -> None:
        """Check before the work that it can hold the limit. Raises InputError if it needs more than all of it."""
        if needed > self.limit:
            memory_mb = -(-(needed + self._resident) // 2**20)
            raise InputError(
                f"opening this scan needs {format_size(needed)} of memory, and the server has "
                f"{format_size(self.limit)} for all; crop the scan, or start the server with -n memory_mb={memory_mb}"
            )

    @contextmanager
    def reserve(self, session: Offloadable) -> Iterator[None]:
        """Wait until the session fits, and pin it until the block ends."""
        with self._released:
            while not session.closed and self._exceeds_limit(session) and self._active:
                self._released.wait(POLL_S)
            self._active.append(session)
        try:
            yield
        finally:
            with self._released:
                self._active.remove(session)
                self._released.notify_all()

    @contextmanager
    def reserve_for_opening(self, session: Offloadable) -> Iterator[None]:
        """Reserve memory to encode an image, in order of arrival and one at a time."""
        with self._released:
            self._opening.append(session)
            while not session.closed and self._opening[0] is not session:
                self._released.wait(POLL_S)
        try:
            with self.reserve(session):
                yield
        finally:
            with self._released:
                self._opening.remove(session)
                self._released.notify_all()

    def offload_idle(self) -> None:
        """Offload inactive sessions until the limit holds, except the most recently used one."""
        with self._released:
            self._exceeds_limit(max(self._sessions(), key=lambda session: session.last_used, default=None))

    @property
    def excess_nbytes(self) -> int:
        """Bytes beyond the limit; negative below it."""
        return self._shared_nbytes() + sum(session.nbytes for session in self._sessions()) - self.limit

    def _exceeds_limit(self, incoming: Offloadable | None) -> bool:
        """Offload inactive sessions to make room for an incoming one; True if the limit is still exceeded."""
        loaded = [*self._active, *([] if incoming is None else [incoming])]
        additional = sum(session.offloaded_nbytes for session in loaded)
        idle = (session for session in self._sessions() if session is not incoming and session not in self._active)
        for session in sorted(idle, key=lambda session: session.last_used):
            if self.excess_nbytes + additional <= 0:
                break
            try:
                session.offload()
            except InputError as error:
                _log.warning("session %s stays in memory: %s", session.name[:8], error)
        return self.excess_nbytes + additional > 0
