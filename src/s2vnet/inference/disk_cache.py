"""Cache of tensors: in memory up to a budget, beyond it in an unnamed temporary file.

The file is read and written, not memory-mapped, so that the process's resident memory stays bounded.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import IO, NamedTuple
from weakref import finalize

import psutil
import torch
from torch import Tensor

from s2vnet.errors import InputError
from s2vnet.utils.byte_sizes import format_size

_log = logging.getLogger(__name__)

_ALIGNMENT = 64
_FREE_SHARE = 4
"""Divisor of the free memory that gives the default budget."""
_DEFAULT_NBYTES = 96 << 20
"""Largest default budget on a CPU. The rest goes to a file, whose pages the system keeps in memory that is free."""
_IN_MEMORY = ("tmpfs", "ramfs")
"""Types of file systems whose files are in memory."""


@dataclass
class MemoryBudget:
    """Bytes of memory that caches may still fill."""

    available: int
    strict: bool = True
    """Whether more than that is refused; else it is taken where the temporary folder cannot hold the rest."""

    @classmethod
    def for_device(cls, device: torch.device) -> MemoryBudget:
        """A quarter of a device's free memory, on a CPU at most 96 MiB; not strict."""
        if device.type == "cuda":
            return cls(torch.cuda.mem_get_info(device)[0] // _FREE_SHARE, strict=False)
        return cls(min(psutil.virtual_memory().available // _FREE_SHARE, _DEFAULT_NBYTES), strict=False)

    def reserve(self, size: int) -> bool:
        """Reserve bytes and return True, or return False where fewer are available."""
        fits = size <= self.available
        self.available -= size if fits else 0
        return fits


class _Layout(NamedTuple):
    """Position and layout of a tensor in a record."""

    offset: int
    nbytes: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


class DiskCache:
    """`count` records, each a list of tensors; shapes are the same in all records, and strides are preserved.

    One thread may write; several may read.
    """

    def __init__(self, budget: MemoryBudget, count: int) -> None:
        """Create an empty cache for `count` records; its memory budget may be shared with other caches."""
        self._budget, self._count = budget, count
        self._in_memory: dict[int, list[Tensor]] = {}
        self._positions: dict[int, int] = {}
        self._layouts: list[_Layout] = []
        self._size = 0
        self._file: IO[bytes] | None = None
        self._device = torch.device("cpu")
        self._reading = Lock()

    def __contains__(self, number: int) -> bool:
        return number in self._in_memory or number in self._positions

    def __setitem__(self, number: int, tensors: Sequence[Tensor]) -> None:
        """Store a record; its tensors must not be modified afterwards.

        Raises:
            InputError: too little disk space for what exceeds the memory budget.
        """
        record = [_without_shared_storage(tensor) for tensor in tensors]
        if not self._layouts:
            self._device = record[0].device
            self._plan_records(record)
        if number in self._in_memory or (number not in self._positions and self._budget.reserve(self._size)):
            self._in_memory[number] = record
        else:
            try:
                self._write(self._positions.setdefault(number, len(self._positions)), record)
            except InputError as error:
                if self._budget.strict:
                    raise
                # others filled the disk meanwhile
                _log.warning("%s; the rest is kept in memory", error)
                self._budget.available += (self._count - number) * self._size
                del self._positions[number]
                self._budget.reserve(self._size)
                self._in_memory[number] = record

    def __getitem__(self, number: int) -> list[Tensor]:
        """Read a record. Raises InputError where the temporary file cannot be read."""
        if number in self._in_memory:
            return self._in_memory[number]
        assert self._file is not None
        record = torch.empty(self._size, dtype=torch.uint8)
        try:
            with self._reading:
                self._read(self._file, self._positions[number], record.numpy().data)
        except OSError as error:
            folder = tempfile.gettempdir()
            raise InputError(f"cannot read from {folder}: {error.strerror}; set TMPDIR to another folder") from error
        return [
            record[p.offset : p.offset + p.nbytes].view(p.dtype).as_strided(p.shape, p.stride).to(self._device)
            for p in self._layouts
        ]

    def _read(self, file: IO[bytes], position: int, view: memoryview) -> None:
        file.seek(position * self._size)
        done = 0
        while done < self._size:
            count = file.readinto(view[done:])  # type: ignore[attr-defined]
            if not count:
                raise OSError(errno.EIO, "a temporary file is truncated")
            done += count

    def close(self) -> None:
        """Delete all records, and return their memory to the budget."""
        self._budget.available += len(self._in_memory) * self._size
        self._in_memory, self._positions = {}, {}
        if self._file is not None:
            self._file.close()

    def _plan_records(self, tensors: Sequence[Tensor]) -> None:
        """Compute a record's layout, and check the disk space for records that exceed the memory budget."""
        for tensor in tensors:
            nbytes = tensor.numel() * tensor.element_size()
            self._layouts.append(_Layout(self._size, nbytes, tuple(tensor.shape), tensor.stride(), tensor.dtype))
            self._size += math.ceil(nbytes / _ALIGNMENT) * _ALIGNMENT
        needed = max(0, self._count - self._budget.available // max(1, self._size)) * self._size
        if not needed:
            return
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        if free >= needed and not is_in_memory(folder):
            return
        reason = f"{format_size(free)} are free in {folder}" if free < needed else f"{folder} is in memory itself"
        hint = "set TMPDIR to a folder on another disk"
        if not self._budget.strict:
            _log.warning("%s are kept in memory, since %s; to save it, %s", format_size(needed), reason, hint)
            self._budget.available += needed
        elif free < needed:
            raise InputError(
                f"{format_size(needed)} of disk space are needed in {folder}, {format_size(free)} are free; "
                f"free some, {hint}, or allow more memory"
            )
        else:
            _log.warning("%s of temporary files take up memory, since %s; %s", format_size(needed), reason, hint)

    def _write(self, position: int, tensors: Sequence[Tensor]) -> None:
        record = torch.zeros(self._size, dtype=torch.uint8)
        for part, tensor in zip(self._layouts, tensors, strict=True):
            flat = tensor.as_strided((tensor.numel(),), (1,)).cpu()
            record[part.offset : part.offset + part.nbytes] = flat.view(torch.uint8)
        view = record.numpy().data
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0, prefix="s2vnet-")  # noqa: SIM115
                finalize(self, self._file.close)
            self._file.seek(position * self._size)
            done = 0
            while done < self._size:
                done += self._file.write(view[done:])
        except OSError as error:
            folder = tempfile.gettempdir()
            raise InputError(f"cannot write to {folder}: {error.strerror}; set TMPDIR to another folder") from error


def is_in_memory(folder: str) -> bool:
    """Whether a folder's files are in memory, such as in a ``/tmp`` on tmpfs; False where that cannot be found out."""
    try:
        path = os.path.realpath(folder)
        mounts = [part for part in psutil.disk_partitions(all=True) if _contains(part.mountpoint, path)]
    except (OSError, RuntimeError):
        return False
    # of mounts on one folder the last one is seen
    return bool(mounts) and max(enumerate(mounts), key=lambda m: (len(m[1].mountpoint), m[0]))[1].fstype in _IN_MEMORY


def _contains(folder: str, path: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _without_shared_storage(tensor: Tensor) -> Tensor:
    """Copy a tensor that is a view into a larger storage, which it would keep in memory; return others as they are."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
