"""Interrupts (Ctrl-C, SIGTERM) that wait for the end of a training step."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], bool]]:
    """Defer the first interrupt; a second one raises KeyboardInterrupt at once.

    Yields:
        A function that returns whether an interrupt has been requested. Outside the main thread it never has.
    """
    requested = False

    def request(number: int, frame: object) -> None:
        nonlocal requested
        if requested:
            raise KeyboardInterrupt
        requested = True

    previous: dict[int, Any] = {}
    with suppress(ValueError):  # raised outside the main thread, where the caller handles interrupts
        previous = {s: signal.signal(s, request) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: requested
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def ignore_interrupts(worker: int = 0) -> None:
    """Initialize a worker process: only the main process handles interrupts, and ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
