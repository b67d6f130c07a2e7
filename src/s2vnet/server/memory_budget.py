"""Memory that sessions share. Who computes has its features in it; those that were idle for longest give way first."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from s2vnet.errors import InputError

LOOK_S = 0.5
"""Seconds after which one that waits for room looks again, for sessions also end by themselves."""
_log = logging.getLogger(__name__)


class Offloadable(Protocol):
    """A session, as far as its memory goes."""

    name: str
    asked: float
    """When its client last said something."""

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""

    @property
    def offloaded_nbytes(self) -> int:
        """Memory that it takes besides when what was put away comes back, or when it is encoded."""

    @property
    def closed(self) -> bool:
        """Whether nobody needs it any more."""

    def offload(self) -> None:
        """Move what is cached to the disk. Raises InputError when the system refuses to."""


class SessionMemoryBudget:
    """So many bytes for all sessions. Safe to use from any thread.

    One that computes is in the room and never put away; the others are, as far as it takes. One that needs more than
    there is waits until others have left; one that is alone gets what it needs.
    """

    def __init__(self, limit: int, guests: Callable[[], Iterable[Offloadable]]) -> None:
        """Args: the limit in bytes, and what gives all open sessions."""
        self.limit, self._guests = limit, guests
        self._left = threading.Condition()
        self._inside: list[Offloadable] = []
        self._opening: list[Offloadable] = []

    @contextmanager
    def place(self, guest: Offloadable) -> Iterator[None]:
        """Be in the room until the block ends; waits for it."""
        with self._left:
            while not guest.closed and self._crowded(guest) and self._inside:
                self._left.wait(LOOK_S)
            self._inside.append(guest)
        try:
            yield
        finally:
            with self._left:
                self._inside.remove(guest)
                self._left.notify_all()

    @contextmanager
    def opening(self, guest: Offloadable) -> Iterator[None]:
        """Be in the room to be encoded: one after the other as they came, or those that wait would keep others out."""
        with self._left:
            self._opening.append(guest)
            while not guest.closed and self._opening[0] is not guest:
                self._left.wait(LOOK_S)
        try:
            with self.place(guest):
                yield
        finally:
            with self._left:
                self._opening.remove(guest)
                self._left.notify_all()

    def tidy(self) -> None:
        """Put idle sessions away as far as it takes to stay within the limit, but for the one that was used last."""
        with self._left:
            self._crowded(max(self._guests(), key=lambda guest: guest.asked, default=None))

    @property
    def excess(self) -> int:
        """Bytes beyond the limit."""
        return sum(guest.nbytes for guest in self._guests()) - self.limit

    def _crowded(self, coming: Offloadable | None) -> bool:
        """Whether there is too little room for one that comes, also when all others that are idle are put away."""
        back = [*self._inside, *([] if coming is None else [coming])]
        more = sum(guest.offloaded_nbytes for guest in back)
        idle = (guest for guest in self._guests() if guest is not coming and guest not in self._inside)
        for guest in sorted(idle, key=lambda guest: guest.asked):
            if self.excess + more <= 0:
                break
            try:
                guest.offload()
            except InputError as error:
                _log.warning("session %s stays in memory: %s", guest.name[:8], error)
        return self.excess + more > 0
