"""What a user has said and taken back: the prompt log, and the logs before and after it. A value, as prompts are.

Every operation gives another history at once; what it looks like is worked out by
:meth:`s2vnet.interactive.session.Session.apply`, which may be several operations behind, or be told to leave one out.
"""

from __future__ import annotations

from dataclasses import dataclass

from s2vnet.errors import InputError
from s2vnet.prompts import Entry

Log = tuple[Entry, ...]
"""Prompts and locks in the order they were given."""


@dataclass(frozen=True)
class History:
    """A prompt log, with the way there and, after undoing, the way on; both without limit."""

    log: Log = ()
    past: tuple[Log, ...] = ()
    """Logs before each operation, oldest first."""
    undone: tuple[Log, ...] = ()
    """Logs that :meth:`redo` brings back, the next one last."""

    def push(self, log: Log) -> History:
        """Another log as one operation."""
        return History(log, (*self.past, self.log))

    def add(self, *entries: Entry) -> History:
        """Prompts of any number of classes in one round."""
        return self.push((*self.log, *entries))

    def remove(self, index: int) -> History:
        """Any entry taken out. Raises InputError when there is none with this number."""
        if not 0 <= index < len(self.log):
            raise InputError(f"no prompt number {index}; the log has {len(self.log)}")
        return self.push((*self.log[:index], *self.log[index + 1 :]))

    def undo(self) -> History:
        """Back one operation; the same history when there is none."""
        return History(self.past[-1], self.past[:-1], (*self.undone, self.log)) if self.past else self

    def redo(self) -> History:
        """The last undone operation again; the same history when there is none."""
        return History(self.undone[-1], (*self.past, self.log), self.undone[:-1]) if self.undone else self
