"""Parse untrusted JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        OSError: The file cannot be read.
        ValueError: Not JSON, not text, or nested too deeply.
    """
    return parse_json(path.read_bytes())


def parse_json(text: str | bytes) -> Any:
    """Return the content of JSON text. Raises ValueError as :func:`read_json`."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
