"""Parse untrusted JSON, and write JSON whose text may be file names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel


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


def model_to_json(value: BaseModel, indent: int | None = 2) -> bytes:
    r"""Return a model as JSON in UTF-8.

    Bytes of file names that are not text (:mod:`.file_names`), which pydantic refuses to write, become ``\udcff``, as
    :func:`read_json` reads them back.
    """
    separators = (",", ":") if indent is None else None
    text = json.dumps(value.model_dump(), indent=indent, separators=separators, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace")
