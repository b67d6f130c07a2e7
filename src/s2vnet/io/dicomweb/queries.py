"""Conditions on the series of an archive."""

from __future__ import annotations

from datetime import date
from typing import NamedTuple


class Query(NamedTuple):
    """Conditions on series, all of which hold; None for any."""

    modality: str | None = None
    """Modality, such as ``CT``."""
    since: date | None = None
    """First StudyDate; a study without a date matches no condition on it."""
    until: date | None = None
    """Last StudyDate."""
    description: str | None = None
    """Part of the SeriesDescription, in any case."""


ANY = Query()
"""The query that all series match."""
