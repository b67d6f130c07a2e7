"""Messages of libraries while they read and write images, which may quote a patient's name or birth date.

pydicom, highdicom and nibabel warn and log about values that they find invalid, with the values. What a user needs to
know is said by this package itself, without values.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LOGGERS = ("pydicom", "highdicom", "nibabel", "nibabel.global")
"""Top loggers of the libraries, and nibabel's, which has a handler of its own."""

_lock = threading.Lock()
_thread = threading.local()
_users = 0
_saved_filter = False
_saved_loggers: dict[str, tuple[bool, bool]] = {}


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Suppress Python warnings, and log records of the libraries, within the block. Thread-safe and reentrant.

    :func:`warnings.catch_warnings` is not used, since two threads could restore each other's filters.
    """
    _enter()
    _thread.depth = getattr(_thread, "depth", 0) + 1
    try:
        yield
    finally:
        _thread.depth -= 1
        _leave()


def _enter() -> None:
    global _users, _saved_filter
    with _lock:
        _users += 1
        if warnings.showwarning is not _show_warning:
            _show_warning.original = warnings.showwarning
            warnings.showwarning = _show_warning
        if _users > 1:
            return
        _saved_filter = _IGNORE in warnings.filters
        warnings.simplefilter("ignore")
        for name in LOGGERS:
            logger = logging.getLogger(name)
            _saved_loggers[name] = (logger.propagate, logger.disabled)
            logger.propagate, logger.disabled = False, True
            if not logger.handlers:  # else Python's handler of last resort prints what child loggers say
                logger.addHandler(logging.NullHandler())


def _leave() -> None:
    global _users
    with _lock:
        _users -= 1
        if _users:
            return
        if not _saved_filter and _IGNORE in warnings.filters:
            filters: Any = warnings.filters
            filters.remove(_IGNORE)
        for name, (propagate, disabled) in _saved_loggers.items():
            logger = logging.getLogger(name)
            logger.propagate, logger.disabled = propagate, disabled


_IGNORE: Any = ("ignore", None, Warning, None, 0)
"""Entry of :func:`warnings.simplefilter`."""


class _ShowWarning:
    """Replacement of :func:`warnings.showwarning` that drops warnings of threads within :func:`quiet_libraries`.

    It is needed where another thread resets the filters in the meantime.
    """

    def __init__(self) -> None:
        self.original: Any = warnings.showwarning

    def __call__(self, *args: Any, **options: Any) -> None:
        if not getattr(_thread, "depth", 0):
            self.original(*args, **options)


_show_warning = _ShowWarning()
