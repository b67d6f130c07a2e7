"""Tensors kept until they are wanted again: in memory while there is room, beyond that in a file without a name.

The file is written and read, not mapped, so that what the process holds stays the same.
"""

from __future__ import annotations

import errno
import math
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
from s2vnet.utils.sizes import format_size

_ALIGNED = 64
_SHARE = 4
"""Without a limit, what is kept may fill one part in this many of the memory that is free."""


@dataclass
class MemoryBudget:
    """Bytes that may still be kept in memory."""

    available: int

    @classmethod
    def for_device(cls, device: torch.device) -> MemoryBudget:
        """A quarter of what is free on a device."""
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
        return cls(free // _SHARE)

    def reserve(self, size: int) -> bool:
        """Whether there is room for so many bytes, which are taken then."""
        fits = size <= self.available
        self.available -= size if fits else 0
        return fits


class _Part(NamedTuple):
    """Where a tensor lies in a record."""

    offset: int
    nbytes: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


class DiskCache:
    """`count` groups of tensors by number, all groups of the same shapes, each as it lay in memory.

    One thread fills it; several may read.
    """

    def __init__(self, budget: MemoryBudget, count: int) -> None:
        self._budget, self._count = budget, count
        self._in_memory: dict[int, list[Tensor]] = {}
        self._places: dict[int, int] = {}
        self._parts: list[_Part] = []
        self._size = 0
        self._file: IO[bytes] | None = None
        self._device = torch.device("cpu")
        self._reading = Lock()

    def __contains__(self, number: int) -> bool:
        return number in self._in_memory or number in self._places

    def __setitem__(self, number: int, tensors: Sequence[Tensor]) -> None:
        """Take a group; nobody may write to its tensors any more.

        Raises:
            InputError: the disk has no space for what memory has not.
        """
        dense = [_without_shared_storage(tensor) for tensor in tensors]
        if not self._parts:
            self._device = dense[0].device
            self._describe(dense)
        if number in self._in_memory or (number not in self._places and self._budget.reserve(self._size)):
            self._in_memory[number] = dense
        else:
            self._write(self._places.setdefault(number, len(self._places)), dense)

    def __getitem__(self, number: int) -> list[Tensor]:
        """Raises InputError where the disk has lost what was written."""
        if number in self._in_memory:
            return self._in_memory[number]
        assert self._file is not None
        record = torch.empty(self._size, dtype=torch.uint8)
        try:
            with self._reading:
                self._read(self._file, self._places[number], record.numpy().data)
        except OSError as error:
            folder = tempfile.gettempdir()
            raise InputError(f"cannot read from {folder}: {error.strerror}; set TMPDIR to another folder") from error
        return [
            record[p.offset : p.offset + p.nbytes].view(p.dtype).as_strided(p.shape, p.stride).to(self._device)
            for p in self._parts
        ]

    def _read(self, file: IO[bytes], place: int, view: memoryview) -> None:
        file.seek(place * self._size)
        done = 0
        while done < self._size:
            count = file.readinto(view[done:])  # type: ignore[attr-defined]
            if not count:
                raise OSError(errno.EIO, "a temporary file was cut off")
            done += count

    def close(self) -> None:
        """Let go of everything, and of the room that it took."""
        self._budget.available += len(self._in_memory) * self._size
        self._in_memory, self._places = {}, {}
        if self._file is not None:
            self._file.close()

    def _describe(self, tensors: Sequence[Tensor]) -> None:
        """Find out what groups look like, and whether the disk has space for those that memory has no room for."""
        for tensor in tensors:
            nbytes = tensor.numel() * tensor.element_size()
            self._parts.append(_Part(self._size, nbytes, tuple(tensor.shape), tensor.stride(), tensor.dtype))
            self._size += math.ceil(nbytes / _ALIGNED) * _ALIGNED
        wanted = max(0, self._count - self._budget.available // max(1, self._size)) * self._size
        folder = tempfile.gettempdir()
        if wanted and (free := shutil.disk_usage(folder).free) < wanted:
            raise InputError(
                f"{format_size(wanted)} of disk space are needed in {folder}, {format_size(free)} are free; free some, "
                "set TMPDIR to a folder on another disk, or allow more memory"
            )

    def _write(self, place: int, tensors: Sequence[Tensor]) -> None:
        record = torch.zeros(self._size, dtype=torch.uint8)
        for part, tensor in zip(self._parts, tensors, strict=True):
            flat = tensor.as_strided((tensor.numel(),), (1,)).cpu()
            record[part.offset : part.offset + part.nbytes] = flat.view(torch.uint8)
        view = record.numpy().data
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0, prefix="s2vnet-")  # noqa: SIM115
                finalize(self, self._file.close)
            self._file.seek(place * self._size)
            done = 0
            while done < self._size:
                done += self._file.write(view[done:])
        except OSError as error:
            folder = tempfile.gettempdir()
            raise InputError(f"cannot write to {folder}: {error.strerror}; set TMPDIR to another folder") from error


def _without_shared_storage(tensor: Tensor) -> Tensor:
    """The tensor, or a copy where it is a part of a larger one, which would stay with it."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
