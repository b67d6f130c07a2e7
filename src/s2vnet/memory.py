"""What glibc does with memory that is freed: training wants it again in the next moment, others do not."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
"""glibc's mallopt(3) parameters."""


def keep_memory() -> None:
    """Tell glibc to keep freed memory for the process instead of handing it back, on Linux.

    Every activation of a training step is larger than what glibc keeps by itself, so each one is mapped and cleared by
    the kernel again: a quarter of a step's time on a CPU.
    """
    mallopt = _of_libc("mallopt")
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)


def give_back() -> None:
    """Hand freed memory back to the system, on Linux: by itself glibc keeps some 100 MB of what each thread freed."""
    trim = _of_libc("malloc_trim")
    if trim is not None:
        trim(0)


def bound_memory() -> None:
    """Tell glibc to hand every block of a megabyte or more back as soon as it is freed, on Linux.

    By itself it learns from what is freed, up to 32 MB, and then keeps such blocks between others that are in use.
    """
    mallopt = _of_libc("mallopt")
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 1 << 20)


def _of_libc(name: str) -> Any:
    """A function of the C library; None where it has none, as musl and other systems."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
