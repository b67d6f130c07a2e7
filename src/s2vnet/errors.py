"""Errors of the package: each is one line that says what is wrong and what to do."""

from __future__ import annotations


class S2VNetError(Exception):
    """Base of every error that a user can cause or mend; its text is one line saying what is wrong and what to do."""

    def __str__(self) -> str:
        """One line whatever it names: keys and files may have line ends in their names."""
        return " ".join(super().__str__().splitlines())


class InputError(S2VNetError, ValueError):
    """A file, option, prompt or dataset is not what it has to be."""


class OutOfMemory(InputError):
    """Memory could not be had; what needed it may fit another time."""


class CheckpointError(S2VNetError):
    """A model or checkpoint is missing, damaged, or of another format version or plan."""
