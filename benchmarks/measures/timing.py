"""Wall-clock and CPU time of a block or a function."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np


class Stopwatch:
    """Context manager; ``seconds`` and ``cpu_seconds`` hold the wall-clock and CPU time of its block afterwards."""

    seconds = cpu_seconds = 0.0

    def __enter__(self) -> Stopwatch:
        self._start = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start[0]
        self.cpu_seconds = time.process_time() - self._start[1]


def median_times(watches: Sequence[Stopwatch]) -> dict[str, float]:
    """Medians of wall-clock and CPU seconds."""
    return {key: float(np.median([getattr(watch, key) for watch in watches])) for key in ("seconds", "cpu_seconds")}


def time_calls(function: Callable[[], object], repeats: int) -> dict[str, float]:
    """Median times of a call, after one that is not timed."""
    function()
    watches = []
    for _ in range(repeats):
        with Stopwatch() as watch:
            function()
        watches.append(watch)
    return median_times(watches)
