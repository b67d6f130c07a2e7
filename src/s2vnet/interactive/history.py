"""Prompt log with undo and redo, an immutable value.

Operations return a new history and compute no labels; :meth:`s2vnet.interactive.session.Session.apply` does, possibly
once after several operations.
"""

from __future__ import annotations

from dataclasses import dataclass

from s2vnet.errors import InputError
from s2vnet.prompts import Entry

Log = tuple[Entry, ...]
"""Prompts and locks in the order they were given."""


@dataclass(frozen=True)
class History:
    """Prompt log with unlimited undo and redo."""

    log: Log = ()
    past: tuple[Log, ...] = ()
    """Logs before each operation, oldest first."""
    undone: tuple[Log, ...] = ()
    """Logs that :meth:`redo` brings back, the next one last."""

    def push(self, log: Log) -> History:
        """Replace the log as one operation."""
        return History(log, (*self.past, self.log))

    def add(self, *entries: Entry) -> History:
        """Append prompts of any number of classes as one operation."""
        return self.push((*self.log, *entries))

    def remove(self, index: int) -> History:
        """Remove any entry. Raises InputError when there is none with this number."""
        if not 0 <= index < len(self.log):
            raise InputError(f"no prompt number {index}; the log has {len(self.log)}")
        return self.push((*self.log[:index], *self.log[index + 1 :]))

    def undo(self) -> History:
        """Go back one operation; the same history when there is none."""
        return History(self.past[-1], self.past[:-1], (*self.undone, self.log)) if self.past else self

    def redo(self) -> History:
        """Repeat the last undone operation; the same history when there is none."""
        return History(self.undone[-1], (*self.past, self.log), self.undone[:-1]) if self.undone else self
