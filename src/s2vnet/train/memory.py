"""Memory that training frees and wants again in the next moment."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""glibc's mallopt(3) parameters."""


def keep_memory() -> None:
    """Tell glibc to keep freed memory for the process instead of handing it back, on Linux.

    Every activation of a training step is larger than what glibc keeps by itself, so each one is mapped and cleared by
    the kernel again: a quarter of a step's time on a CPU.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)
