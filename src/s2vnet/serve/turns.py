"""Who computes now: one at a time, clicks before encoding, that before scoring, and otherwise in turn.

A processor's cores serve one network best when they serve it alone. So every session works in a thread of its own but
computes only in its turn, and offers its turn after every slice.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager

CLICK, ENCODING, SCORING = 0, 1, 2
"""Urgency; the smaller goes first."""


class Turns:
    """A lock that the most urgent, and of those the longest waiting, gets next."""

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._count = itertools.count()
        self._waiting: list[tuple[int, int]] = []
        self._taken = False

    @contextmanager
    def turn(self, urgency: int) -> Iterator[None]:
        """Hold the turn until the block ends."""
        self._take(urgency)
        try:
            yield
        finally:
            self._give()

    def offer(self, urgency: int) -> None:
        """Let those go first that are at least as urgent, once each; only within :meth:`turn`."""
        with self._free:
            wanted = any(other[0] <= urgency for other in self._waiting)
        if wanted:
            self._give()
            self._take(urgency)

    def _take(self, urgency: int) -> None:
        with self._free:
            own = (urgency, next(self._count))
            self._waiting.append(own)
            self._free.wait_for(lambda: not self._taken and min(self._waiting) == own)
            self._waiting.remove(own)
            self._taken = True

    def _give(self) -> None:
        with self._free:
            self._taken = False
            self._free.notify_all()
