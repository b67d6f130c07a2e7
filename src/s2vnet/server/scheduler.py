"""Earliest-deadline-first lock on the processor: one session computes at a time, clicks before encoding.

A network is fastest with all cores for itself. Every session runs in its own thread, computes only while it holds the
lock, and yields to more urgent sessions after every slice.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

CLICK, ENCODING, SCORING = 0.0, 5.0, math.inf
"""Relative deadlines in seconds: encoding runs before clicks that arrive more than 5 s later, scoring always last."""


class _Ticket(NamedTuple):
    """Position of a waiting or running thread; the smallest runs first."""

    deadline: float
    number: int
    deadline_s: float


class Scheduler:
    """A lock that goes to the waiting thread with the earliest deadline."""

    def __init__(self) -> None:
        self._released = threading.Condition()
        self._count = itertools.count()
        self._waiting: list[_Ticket] = []
        self._holder: _Ticket | None = None
        self._max_deadline_s = math.inf
        """Relative deadline up to which waiting threads may take the lock now."""

    @contextmanager
    def acquire(self, deadline_s: float) -> Iterator[None]:
        """Hold the lock until the block ends.

        Args:
            deadline_s: relative deadline, seconds from now: CLICK, ENCODING or SCORING.
        """
        with self._released:
            self._acquire(self._ticket(deadline_s))
        try:
            yield
        finally:
            with self._released:
                self._release(math.inf)

    def yield_to(self, deadline_s: float) -> None:
        """Let waiting threads run first whose relative deadline is at most `deadline_s`; only inside :meth:`acquire`.

        A holder with the same relative deadline gets a new position in the queue; one with a later deadline keeps its
        position, so that scans yield to clicks but not to each other.
        """
        with self._released:
            own = self._holder
            assert own is not None
            if any(other.deadline_s <= deadline_s for other in self._waiting):
                self._release(deadline_s)
                self._acquire(own if deadline_s < own.deadline_s else self._ticket(own.deadline_s))

    def _ticket(self, deadline_s: float) -> _Ticket:
        return _Ticket(time.monotonic() + deadline_s, next(self._count), deadline_s)

    def _acquire(self, own: _Ticket) -> None:
        self._waiting.append(own)
        self._released.wait_for(lambda: self._holder is None and self._next() == own)
        self._waiting.remove(own)
        self._holder, self._max_deadline_s = own, math.inf

    def _next(self) -> _Ticket:
        allowed = (ticket for ticket in self._waiting if ticket.deadline_s <= self._max_deadline_s)
        return min(allowed, default=self._waiting[0])

    def _release(self, max_deadline_s: float) -> None:
        self._holder, self._max_deadline_s = None, max_deadline_s
        self._released.notify_all()
