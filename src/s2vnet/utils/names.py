"""Lists of names in messages."""

from __future__ import annotations

from collections.abc import Iterable


def some_names(names: Iterable[object], limit: int = 5) -> str:
    """Return the first names, comma-separated, and the number of further ones."""
    texts = [str(name) for name in names]
    more = f" and {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + more
