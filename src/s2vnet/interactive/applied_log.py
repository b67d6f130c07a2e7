"""A prompt log together with the voxels that each of its entries changed."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from s2vnet.interactive.corrections import Corrections
from s2vnet.interactive.history import Log
from s2vnet.interactive.label_changes import LabelChange, PackedChange
from s2vnet.interactive.live_updates import SliceCallback, change_updates
from s2vnet.interactive.prompt_state import PromptState
from s2vnet.prompts import Entry

Labels = npt.NDArray[np.uint8]
StepCallback = Callable[[], None]
"""Called before each entry is applied and before each further window of the corrector; may raise to stop."""
MAX_CHANGES_NBYTES = 64 << 20
"""Bytes of packed changes that a log keeps. Beyond them redo, and then undo of the oldest entries, computes again."""


@dataclass(frozen=True, eq=False)
class AppliedEntry:
    """An entry of the log and the voxels that it changed."""

    entry: Entry
    change: PackedChange | None
    """None where it was dropped to bound the memory."""


@dataclass(frozen=True, eq=False)
class AppliedLog:
    """Labels of a log; entries that two logs begin with are applied once."""

    labels: Labels
    """(I, J, K) labels after all entries."""
    entries: tuple[AppliedEntry, ...] = ()
    undone: tuple[AppliedEntry, ...] = ()
    """Entries of an earlier log, which undo and redo apply again without computing them."""
    initial: bytes | None = None
    """Compressed labels before all entries, once a change was dropped."""
    state: PromptState | None = None
    """What the entries say; None until it is needed."""
    max_changes_nbytes: int = MAX_CHANGES_NBYTES

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
            on_step: called before each computed entry, and before each further window of the corrector.
        """
        common, undone = _common(log, self.entries), self.undone[: _common(log, self.undone)]
        labels, first = self._before(common)
        applied = list(self.entries[:first])
        state = self.state if first == len(self.entries) else None
        for number, entry in enumerate(log[first:], start=first):
            known = (entries[number] for entries in (self.entries[:common], undone) if number < len(entries))
            each = next((found for found in known if found.change is not None), None)
            if each is None:
                if on_step is not None:
                    on_step()
                if state is None:
                    state = _state_after(applied, corrections())
                each, change = _compute(corrections(), labels, state, entry, on_slice, on_step)
            else:
                change = _unpack(each)
            labels.reshape(-1)[change.voxels] = change.after
            applied.append(each)
            if state is not None:
                state = state.add(entry, corrections().grid)
        return replace(self, labels=labels, entries=tuple(applied), undone=self.entries, state=state)._bounded()

    def keep_longest(self, previous: AppliedLog) -> AppliedLog:
        """The same log, which keeps the longest of the logs that lie one after another in a history."""
        longest = max(previous.undone, previous.entries, self.entries, key=len)
        return replace(self, undone=longest)._bounded()

    @property
    def nbytes(self) -> int:
        """Memory in bytes; what several entries share is counted once."""
        start = 0 if self.initial is None else len(self.initial)
        return self.labels.nbytes + start + self._changes_nbytes + (0 if self.state is None else self.state.nbytes)

    @property
    def _changes_nbytes(self) -> int:
        changes = {each.change for each in (*self.entries, *self.undone) if each.change is not None}
        return sum(change.nbytes for change in changes)

    def _before(self, number: int) -> tuple[Labels, int]:
        """Copy of the labels before an entry, or before the first one where changes in between were dropped."""
        later = self.entries[number:]
        if any(each.change is None for each in later):
            return self._initial_labels(), 0
        labels = self.labels.copy()
        for each in reversed(later):
            change = _unpack(each)
            labels.reshape(-1)[change.voxels] = change.before
        return labels, number

    def _initial_labels(self) -> Labels:
        if self.initial is None:
            return self._before(0)[0]
        return np.frombuffer(zlib.decompress(self.initial), np.uint8).reshape(self.labels.shape).copy()

    def _bounded(self) -> AppliedLog:
        """The same log with fewer changes if they take too much memory: first without those undone, then the oldest."""
        if self._changes_nbytes <= self.max_changes_nbytes:
            return self
        log = replace(self, undone=())
        if log._changes_nbytes <= self.max_changes_nbytes:
            return log
        initial = zlib.compress(self._initial_labels().tobytes(), 1)
        entries, left = list(log.entries), log._changes_nbytes
        for number, each in enumerate(entries):
            if left <= self.max_changes_nbytes:
                break
            left -= 0 if each.change is None else each.change.nbytes
            entries[number] = replace(each, change=None)
        return replace(log, entries=tuple(entries), initial=initial)


def _common(log: Log, entries: tuple[AppliedEntry, ...]) -> int:
    """Number of entries that both begin with."""
    pairs = zip(log, entries, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a is not b.entry), min(len(log), len(entries)))


def _unpack(each: AppliedEntry) -> LabelChange:
    assert each.change is not None
    return each.change.unpack()


def _state_after(applied: list[AppliedEntry], corrections: Corrections) -> PromptState:
    state = PromptState()
    for each in applied:
        state = state.add(each.entry, corrections.grid)
    return state


def _compute(
    corrections: Corrections,
    labels: Labels,
    state: PromptState,
    entry: Entry,
    on_slice: SliceCallback | None,
    on_step: StepCallback | None,
) -> tuple[AppliedEntry, LabelChange]:
    send = None if on_slice is None else change_updates(labels, entry, corrections.plane, on_slice)

    def report(change: Callable[[], LabelChange]) -> None:
        if on_step is not None:
            on_step()
        if send is not None:
            send(change())

    change = corrections.change(labels, state, entry, report)
    if send is not None:
        send(change)
    return AppliedEntry(entry, PackedChange.of(change)), change
