"""Parse and format sizes in bytes, such as ``3GB``."""

from __future__ import annotations

import math
import re
from typing import Annotated

from pydantic import ByteSize, Field, TypeAdapter, ValidationError

from s2vnet.errors import InputError

_FORM = re.compile(r"\s*\d+(\.\d+)?\s*([kmgtpe]i?)?b?\s*", re.IGNORECASE)
"""Whole text of a size: ByteSize reads what it begins with, such as one byte of ``1,5GB``."""
_SIZE: TypeAdapter[int] = TypeAdapter(Annotated[ByteSize, Field(gt=0)])


def parse_size(text: str) -> int:
    """Return the bytes of a size such as ``3GB``, ``512 MB`` or ``1.5GiB``.

    Raises:
        InputError: Not a size, or 0.
    """
    refusal = InputError(f"{text!r} is not a memory size; write it as 3GB or 512MB")
    if not _FORM.fullmatch(text):
        raise refusal
    try:
        return int(_SIZE.validate_python(f"{text}B" if text.rstrip()[-1] in "iI" else text))
    except ValidationError as error:
        raise refusal from error


def format_size(size: int) -> str:
    """Return a number of bytes in MB or GB, rounded up."""
    return f"{math.ceil(size / 10**6)} MB" if size < 10**9 else f"{math.ceil(size / 10**8) / 10:.1f} GB"
