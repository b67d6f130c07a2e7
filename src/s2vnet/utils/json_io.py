"""JSON that others wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: no JSON, no text, or nested deeper than Python goes.
    """
    return parse_json(path.read_bytes())


def parse_json(text: str | bytes) -> Any:
    """What JSON says. Raises ValueError as :func:`read_json`."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
