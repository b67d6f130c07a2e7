"""Errors of the package: each is one line that says what is wrong and what to do."""

from __future__ import annotations

import traceback
from pathlib import Path


class S2VNetError(Exception):
    """Base of every expected error: one line that says what is wrong and what to do."""

    def __str__(self) -> str:
        """Return the message on one line, also where a file or key that it names contains line ends."""
        return " ".join(super().__str__().splitlines())


def unexpected(error: Exception) -> str:
    """Describe an error that is none of those below: its type and place, without its message, which may quote a value.

    Args:
        error: the error, with its traceback.
    """
    places = traceback.extract_tb(error.__traceback__)
    place = f" in {Path(places[-1].filename).name}, line {places[-1].lineno}" if places else ""
    return f"unexpected {type(error).__name__}{place}; please report it"


def describe_calls(error: BaseException) -> str:
    """Return a line for each call that led to an error, and its type: a traceback without its message and values."""
    calls = traceback.extract_tb(error.__traceback__)
    return "\n".join(
        [*(f"  {call.filename}, line {call.lineno}, in {call.name}" for call in calls), type(error).__name__]
    )


class InputError(S2VNetError, ValueError):
    """Invalid file, option, prompt or dataset, or a failed file operation."""


class OutOfMemory(InputError):
    """Memory could not be allocated; the same call may succeed later."""


class CheckpointError(S2VNetError):
    """Missing or damaged model or checkpoint, or one of another format version or plan."""
