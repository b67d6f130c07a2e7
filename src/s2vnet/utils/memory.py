"""What glibc does with memory that is freed: training wants it again in the next moment, others do not.

And what libraries say where memory cannot be had, each in its own words.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from s2vnet.errors import OutOfMemory, S2VNetError

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
"""glibc's mallopt(3) parameters."""
_SAID = re.compile(
    r"(can.?t|cannot|could not|failed to|unable to) alloc(ate)?\b|out of memory|bad_?alloc|create a memory object"
    r"|can.?t start new thread|resource temporarily unavailable",  # for its stack
    re.IGNORECASE,
)
"""Of torch, ONNX Runtime, OpenVINO and ITK, which raise RuntimeError or an error of their own."""
_AMOUNT = re.compile(r"(?:allocate|buffer of size) ([\d.]+) ?(bytes|[KMGT]iB)?", re.IGNORECASE)


def keep_memory() -> None:
    """Tell glibc to keep freed memory for the process instead of handing it back, on Linux.

    Every activation of a training step is larger than what glibc keeps by itself, so each one is mapped and cleared by
    the kernel again: a quarter of a step's time on a CPU.
    """
    mallopt = _of_libc("mallopt")
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)


def release_freed_memory() -> None:
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


def reset_peak_memory() -> None:
    """Let :func:`peak_memory_mb` count from now on, on Linux."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # https://docs.kernel.org/filesystems/proc.html


def peak_memory_mb() -> float | None:
    """Most memory in MiB that this process has held; None where the system does not tell.

    Not by getrusage(2) on Linux, which counts what the process held that began this one.
    """
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024
    if os.name != "posix":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS counts bytes


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory could not be had."""
    if isinstance(error, S2VNetError):
        return isinstance(error, OutOfMemory)
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (isinstance(error, Exception) and _SAID.search(str(error)) is not None)


def out_of_memory(error: BaseException) -> OutOfMemory:
    """The same in one line, with how much was asked for where the library tells."""
    if isinstance(error, OutOfMemory):
        return error
    found = _AMOUNT.search(str(error))
    amount = f" for {found[1].rstrip('.')} {found[2] or 'bytes'} more" if found else ""
    return OutOfMemory(
        f"not enough memory{amount}; end other programs, take fewer workers, set --max-memory, or crop the image"
    )


@contextmanager
def memory_errors() -> Iterator[None]:
    """Within it, every library's error of lacking memory is the same.

    Raises:
        OutOfMemory: in place of it.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory(error) from error


def _of_libc(name: str) -> Any:
    """A function of the C library; None where it has none, as musl and other systems."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
