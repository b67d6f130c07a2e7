"""Which prompts of a log later ones overrule."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from s2vnet.interactive.history import Log
from s2vnet.interactive.voxelize import is_box, is_prompt, num_prompt_voxels, prompt_voxels
from s2vnet.prompts import Entry

MAX_COMPARED_VOXELS = 100_000
"""Largest number of voxels of a prompt that is compared with other prompts."""


class _Statements(NamedTuple):
    """Voxels whose last prompt about a class has one sign."""

    voxels: npt.NDArray[np.intp]
    """(N,) flat indices, rising."""
    numbers: npt.NDArray[np.intp]
    """(N,) number of that prompt in the log."""

    def find(self, flat: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Positions of those of some voxels (M,) that are here."""
        at = np.searchsorted(self.voxels, flat)
        at = at[at < len(self.voxels)] if len(self.voxels) else at[:0]
        found: npt.NDArray[np.intp] = at[np.isin(self.voxels[at], flat)]
        return found


class OverruledPrompts:
    """Pairs of prompts of a growing log that contradict each other where they overlap."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        """Start with an empty log of an image of this shape (I, J, K)."""
        self.shape = shape
        self.log: Log = ()
        self.overruled: dict[int, list[int]] = {}
        """Numbers of the prompts that each prompt overrules."""
        self._standing: dict[tuple[int, bool], _Statements] = {}

    def follow(self, log: Log) -> OverruledPrompts:
        """Prompts of another log; where it continues this one, only its new entries are compared, in place."""
        known = len(self.log)
        continues = known <= len(log) and all(a is b for a, b in zip(self.log, log[:known], strict=True))
        result = self if continues else OverruledPrompts(self.shape)
        for number in range(len(result.log), len(log)):
            result._add(number, log[number])
        result.log = log
        return result

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return sum(array.nbytes for statements in self._standing.values() for array in statements)

    def _add(self, number: int, entry: Entry) -> None:
        if not is_prompt(entry) or is_box(entry) or num_prompt_voxels(entry) > MAX_COMPARED_VOXELS:
            return
        flat = np.unique(np.ravel_multi_index(tuple(prompt_voxels(entry).T), self.shape))
        own, before = (entry.class_id, entry.positive), set[int]()
        for key, statements in self._standing.items():
            if key == own or _contradict(key, own):
                at = statements.find(flat)
                if key != own:
                    before.update(statements.numbers[at].tolist())
                self._standing[key] = _Statements(*(np.delete(array, at) for array in statements))
        earlier = self._standing.get(own, _Statements(flat[:0], flat[:0]))
        at = np.searchsorted(earlier.voxels, flat)
        self._standing[own] = _Statements(
            np.insert(earlier.voxels, at, flat), np.insert(earlier.numbers, at, np.full(len(flat), number))
        )
        if before:
            self.overruled[number] = sorted(before)


def _contradict(earlier: tuple[int, bool], later: tuple[int, bool]) -> bool:
    """Whether two statements (class, positive) on one voxel exclude each other."""
    if earlier[1] and later[1]:
        return earlier[0] != later[0]
    return earlier[1] != later[1] and earlier[0] == later[0]
