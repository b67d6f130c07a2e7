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
from typing import NamedTuple

CLICK, ENCODING, SCORING = 0.0, 5.0, math.inf
"""Patience in seconds: who waits goes before those that come so much later, whatever they come for."""


class _Place(NamedTuple):
    """Of one that waits or has the turn; the least goes first."""

    end: float
    number: int
    patience: float


class Scheduler:
    """A lock that the one gets next whose patience ends first."""

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._count = itertools.count()
        self._waiting: list[_Place] = []
        self._holder: _Place | None = None
        self._offered = math.inf
        """Who may take the turn: those of so much patience or less."""

    @contextmanager
    def turn(self, patience: float) -> Iterator[None]:
        """Hold the turn until the block ends."""
        with self._free:
            self._take(self._place(patience))
        try:
            yield
        finally:
            with self._free:
                self._give(math.inf)

    def offer(self, patience: float) -> None:
        """Let those go first that have so much patience or less; only within :meth:`turn`.

        One that has as much goes to the end of the line, one that has more goes on as soon as they are done: so scans
        give way to clicks but not to each other.
        """
        with self._free:
            own = self._holder
            assert own is not None
            if any(other.patience <= patience for other in self._waiting):
                self._give(patience)
                self._take(own if patience < own.patience else self._place(own.patience))

    def _place(self, patience: float) -> _Place:
        return _Place(time.monotonic() + patience, next(self._count), patience)

    def _take(self, own: _Place) -> None:
        self._waiting.append(own)
        self._free.wait_for(lambda: self._holder is None and self._next() == own)
        self._waiting.remove(own)
        self._holder, self._offered = own, math.inf

    def _next(self) -> _Place:
        return min((place for place in self._waiting if place.patience <= self._offered), default=self._waiting[0])

    def _give(self, patience: float) -> None:
        self._holder, self._offered = None, patience
        self._free.notify_all()
