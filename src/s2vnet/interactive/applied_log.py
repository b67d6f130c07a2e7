"""A prompt log together with the voxels that each of its entries changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from s2vnet.interactive.corrections import Corrections, LabelChange, PromptState
from s2vnet.interactive.history import Log
from s2vnet.interactive.live_updates import SliceCallback, change_updates
from s2vnet.prompts import Entry

Labels = npt.NDArray[np.uint8]
StepCallback = Callable[[], None]
"""Called before each entry is applied and after each window of the corrector; may raise to stop."""


@dataclass(frozen=True, eq=False)
class AppliedEntry:
    """An entry of the log and the voxels that it changed."""

    entry: Entry
    change: LabelChange


@dataclass(frozen=True, eq=False)
class AppliedLog:
    """Labels of a log; entries that two logs begin with are applied once."""

    labels: Labels
    """(I, J, K) labels after all entries."""
    entries: tuple[AppliedEntry, ...] = ()
    undone: tuple[AppliedEntry, ...] = ()
    """Entries of an earlier log, which undo and redo apply again without computing them."""

    def follow(
        self,
        log: Log,
        corrections: Callable[[], Corrections],
        on_slice: SliceCallback | None = None,
        on_step: StepCallback | None = None,
    ) -> AppliedLog:
        """Apply another log to the labels that this one started from.

        Args:
            log: the other log.
            corrections: corrections of the volume, called only where an entry must be computed.
            on_slice: called with voxels that computed entries change, as they are found.
            on_step: called before each computed entry, and after each window of the corrector.
        """
        common = _common(log, self.entries)
        labels = self.labels.copy()
        for each in reversed(self.entries[common:]):
            labels.reshape(-1)[each.change.voxels] = each.change.before
        applied, known = list(self.entries[:common]), self.undone[: _common(log, self.undone)]
        state = PromptState()
        for each in applied:
            state = state.add(each.entry)
        for number, entry in enumerate(log[common:], start=common):
            if number < len(known):
                each = known[number]
            else:
                if on_step is not None:
                    on_step()
                each = _compute(corrections(), labels, state, entry, on_slice, on_step)
            labels.reshape(-1)[each.change.voxels] = each.change.after
            applied.append(each)
            state = state.add(entry)
        return AppliedLog(labels, tuple(applied), self.entries)

    def keep_longest(self, previous: AppliedLog) -> AppliedLog:
        """The same log, which keeps the longest of the logs that lie one after another in a history."""
        longest = max(previous.undone, previous.entries, self.entries, key=len)
        return AppliedLog(self.labels, self.entries, longest)

    @property
    def nbytes(self) -> int:
        """Memory in bytes; an array that several entries share is counted once."""
        arrays = [self.labels, *(a for each in {*self.entries, *self.undone} for a in each.change)]
        return sum({id(array): array.nbytes for array in arrays}.values())


def _common(log: Log, entries: tuple[AppliedEntry, ...]) -> int:
    """Number of entries that both begin with."""
    pairs = zip(log, entries, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a is not b.entry), min(len(log), len(entries)))


def _compute(
    corrections: Corrections,
    labels: Labels,
    state: PromptState,
    entry: Entry,
    on_slice: SliceCallback | None,
    on_step: StepCallback | None,
) -> AppliedEntry:
    send = None if on_slice is None else change_updates(labels, entry, corrections.plane, on_slice)

    def report(change: LabelChange) -> None:
        if on_step is not None:
            on_step()
        if send is not None:
            send(change)

    change = corrections.change(labels, state, entry, report)
    if send is not None:
        send(change)
    return AppliedEntry(entry, change)
