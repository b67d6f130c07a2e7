"""Who computes now: one at a time, clicks before encoding for some seconds, scoring last, and otherwise in turn.

A processor's cores serve one network best when they serve it alone. So every session works in a thread of its own but
computes only in its turn, and offers its turn after every slice.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

CLICK, ENCODING, SCORING = 0.0, 5.0, math.inf
"""Patience in seconds: who waits goes before those that come so much later, whatever they come for."""


class Turns:
    """A lock that the one gets next whose patience ends first."""

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._count = itertools.count()
        self._waiting: list[tuple[float, int]] = []
        self._taken = False

    @contextmanager
    def turn(self, patience: float) -> Iterator[None]:
        """Hold the turn until the block ends."""
        self._take(patience)
        try:
            yield
        finally:
            self._give()

    def offer(self, patience: float) -> None:
        """Let those go first whose patience ends before one would end that began now; only within :meth:`turn`."""
        with self._free:
            wanted = any(end <= time.monotonic() + patience for end, _ in self._waiting)
        if wanted:
            self._give()
            self._take(patience)

    def _take(self, patience: float) -> None:
        with self._free:
            own = (time.monotonic() + patience, next(self._count))
            self._waiting.append(own)
            self._free.wait_for(lambda: not self._taken and min(self._waiting) == own)
            self._waiting.remove(own)
            self._taken = True

    def _give(self) -> None:
        with self._free:
            self._taken = False
            self._free.notify_all()
