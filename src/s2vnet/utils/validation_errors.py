"""Validation errors as one-line messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Invalid(Protocol):
    """Validation error of pydantic or FastAPI."""

    def errors(self) -> Sequence[Any]:
        """Locations and messages of all errors."""


def first_error(error: Invalid, root: str = "") -> str:
    """Return ``location: message`` of a validation error's first entry.

    Args:
        error: The validation error.
        root: Location of an error that belongs to no single field; if empty, its message has no location.
    """
    first = error.errors()[0]
    location = ".".join(map(str, first["loc"])) or root
    return f"{location}: {first['msg']}" if location else str(first["msg"])
