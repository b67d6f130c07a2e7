"""Failed validation in one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Invalid(Protocol):
    """Error of pydantic or FastAPI that lists what is invalid."""

    def errors(self) -> Sequence[Any]:
        """Locations and messages of all errors."""


def first_error(error: Invalid, root: str = "") -> str:
    """Return ``location: message`` of a validation error's first entry.

    Args:
        error: The validation error.
        root: Name of the whole value, for an error that is not of one field; without it the message stands alone.
    """
    first = error.errors()[0]
    location = ".".join(map(str, first["loc"])) or root
    return f"{location}: {first['msg']}" if location else str(first["msg"])
