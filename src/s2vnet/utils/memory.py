"""Memory of this process: settings of glibc's allocator, peak memory, and out-of-memory errors of libraries."""

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
_MESSAGES = re.compile(
    r"(can.?t|cannot|could not|failed to|unable to) alloc(ate)?\b|out of memory|bad_?alloc|create a memory object"
    r"|can.?t start new thread|resource temporarily unavailable",  # for its stack
    re.IGNORECASE,
)
"""Messages of torch, ONNX Runtime, OpenVINO and ITK, which raise RuntimeError or their own errors."""
_AMOUNT = re.compile(r"(?:allocate|buffer of size) ([\d.]+) ?(bytes|[KMGT]iB)?", re.IGNORECASE)


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the process instead of returning it to the system, on Linux.

    Activations of a training step are larger than the blocks that glibc keeps by default. Otherwise the kernel maps
    and zeroes their memory again in every step, which takes a quarter of its time on a CPU.
    """
    mallopt = _libc_function("mallopt")
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)


def release_freed_memory() -> None:
    """Return freed memory to the system, on Linux: by default glibc keeps some 100 MB of what each thread freed."""
    trim = _libc_function("malloc_trim")
    if trim is not None:
        trim(0)


def release_large_blocks() -> None:
    """Let glibc return every block of a megabyte or more to the system as soon as it is freed, on Linux.

    By default its threshold rises with the size of freed blocks, up to 32 MB, and such blocks stay in the heap.
    """
    mallopt = _libc_function("mallopt")
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 1 << 20)


def resident_nbytes() -> int:
    """Return the bytes of this process in memory, or 0 on a system that does not report them in ``/proc``."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def reset_peak_memory() -> None:
    """Reset the peak that :func:`peak_memory_mb` returns to the present use, on Linux."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # https://docs.kernel.org/filesystems/proc.html


def peak_memory_mb() -> float | None:
    """Return this process's peak of resident memory in MiB, or None on a system that does not report it.

    On Linux, getrusage(2) is avoided, since it also counts memory of the parent process.
    """
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024
    if os.name != "posix":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS counts bytes


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory could not be allocated."""
    if isinstance(error, S2VNetError):
        return isinstance(error, OutOfMemory)
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (isinstance(error, Exception) and _MESSAGES.search(str(error)) is not None)


def out_of_memory(error: BaseException) -> OutOfMemory:
    """Return an out-of-memory error as one line, with the amount that was requested if the library names it."""
    if isinstance(error, OutOfMemory):
        return error
    match = _AMOUNT.search(str(error))
    amount = f" for {match[1].rstrip('.')} {match[2] or 'bytes'} more" if match else ""
    return OutOfMemory(
        f"not enough memory{amount}; end other programs, take fewer workers, set --max-memory, or crop the image"
    )


@contextmanager
def memory_errors() -> Iterator[None]:
    """Convert out-of-memory errors of any library within the block to :class:`OutOfMemory`.

    Raises:
        OutOfMemory: In place of the library's error.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory(error) from error


def _libc_function(name: str) -> Any:
    """Return a function of the C library, or None where there is none, as in musl or on other systems."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
