"""Errors of the package: each is one line that says what is wrong and what to do."""

from __future__ import annotations


class S2VNetError(Exception):
    """Base of every expected error: one line that says what is wrong and what to do."""

    def __str__(self) -> str:
        """Return the message on one line, also where a file or key that it names contains line ends."""
        return " ".join(super().__str__().splitlines())


class InputError(S2VNetError, ValueError):
    """Invalid file, option, prompt or dataset, or a failed file operation."""


class OutOfMemory(InputError):
    """Memory could not be allocated; the same call may succeed later."""


class CheckpointError(S2VNetError):
    """Missing or damaged model or checkpoint, or one of another format version or plan."""
