"""Errors of the package by kind, with the HTTP status and the exit code of each.

Each is one line that says what is wrong and what to do.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import ClassVar, Self


class S2VNetError(Exception):
    """Base of every expected error: one line that says what is wrong and what to do.

    Args:
        message: what is wrong and what to do; ``{path}`` in it stands for the path. Without it, the path precedes it.
        path: file, folder or URL that the error is about.
        kept: file with the results that were kept despite the error; ``{kept}`` in the message stands for it.

    Attributes:
        http_status: status code of a server's answer.
        exit_code: exit code of a command.
    """

    http_status: ClassVar[int] = 422
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str = "", *, path: Path | str | None = None, kept: Path | str | None = None) -> None:
        super().__init__(message)
        self.message, self.path, self.kept = message, path, kept

    def __str__(self) -> str:
        """Return the message with its paths on one line, also where they contain line ends."""
        text = self.message.replace("{kept}", str(self.kept)) if self.kept is not None else self.message
        if self.path is not None:
            text = text.replace("{path}", str(self.path)) if "{path}" in text else f"{self.path}: {text}"
        return " ".join(text.splitlines())

    def without_traceback(self) -> Self:
        """Return an equal error without traceback and cause."""
        return type(self)(self.message, path=self.path, kept=self.kept)

    def about(self, path: Path | str) -> Self:
        """Return the error with a path, unless it has one already."""
        return self if self.path is not None else type(self)(self.message, path=path, kept=self.kept)

    def relocated(self, old: Path | str, new: Path | str) -> Self:
        """Return an equal error with `new` for `old` at the start of its paths: an archive for its unpacked files."""
        path, kept = (_relocate(each, old, new) for each in (self.path, self.kept))
        return type(self)(self.message, path=path, kept=kept)


def _relocate(path: Path | str | None, old: Path | str, new: Path | str) -> Path | str | None:
    if path is None or not Path(path).is_relative_to(old):
        return path
    rest = Path(path).relative_to(old)
    return f"{new}/{rest.as_posix()}" if rest.parts else new


class InputError(S2VNetError, ValueError):
    """Invalid file, option, prompt or dataset. Base of the errors below that a caller may handle in the same way."""


class NotFoundError(InputError):
    """Named file, scan, session or model that does not exist."""

    http_status = 404


class CapacityError(InputError):
    """Temporary lack of sessions, space for uploads, or time; the same call may succeed later."""

    http_status = 503
    exit_code = 7


class StorageError(InputError):
    """File or folder that cannot be written: no permission, no such folder, or a full disk."""

    http_status = 507
    exit_code = 3


class MissingDependencyError(InputError):
    """Optional package that is not installed; the message has the command that installs it."""

    http_status = 501
    exit_code = 4


class OutOfMemory(InputError):
    """Memory could not be allocated; the same call may succeed later."""

    exit_code = 5


class CheckpointError(S2VNetError):
    """Missing or damaged model or checkpoint, or one of another format version or plan."""

    exit_code = 6


def unexpected(error: Exception) -> str:
    """Describe an error that is none of those above: its type and place, without its message, which may quote a value.

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
