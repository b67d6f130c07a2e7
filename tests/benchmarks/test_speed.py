"""Medians of measurements."""

from __future__ import annotations

from benchmarks import speed


def test_median_of_unmeasured_figure_is_none() -> None:
    assert speed._median([{"seconds": s, "joules": None} for s in (1.0, 5.0, 2.0)]) == {"seconds": 2.0, "joules": None}
