"""One measurement of :mod:`benchmarks.speed` in a process of its own, so that its peak memory is its own.

python -m benchmarks.measures.speed_worker TASK SCAN MODEL

Tasks: matrix, peer:NETWORK, scan:RUNTIME, encoder:RUNTIME, prompts:RUNTIME, points:RUNTIME, classes:NUMBER. Imports are
inside functions, since modules that a task does not use would add to its memory.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.measures.timing import time_calls


def measure(task: str, scan: Path, model: str) -> dict[str, Any]:
    """Run a task; return its times by name, and the peak memory of this process in MiB."""
    from s2vnet.utils.memory import peak_memory_mb

    return {**_times(task, scan, model), "peak_mb": peak_memory_mb()}


def _times(task: str, scan: Path, model: str) -> dict[str, Any]:
    kind, _, argument = task.partition(":")
    if kind == "matrix":
        return _matrix()
    if kind == "peer":
        from benchmarks.peers.patch_speed import time_patch

        return time_patch(argument)
    from benchmarks.measures import segmentation_speed

    if kind == "classes":
        return segmentation_speed.time_classes(scan, model, int(argument))
    tasks = {
        "scan": segmentation_speed.time_scan,
        "encoder": segmentation_speed.time_encoder,
        "prompts": segmentation_speed.time_prompts,
        "points": segmentation_speed.time_points,
    }
    return tasks[kind](scan, model, argument)


def _matrix(size: int = 3072) -> dict[str, float]:
    """Measure the speed of a matrix product."""
    import torch

    a = torch.randn(size, size)
    return {"gflops": 2 * size**3 / time_calls(lambda: a @ a, 5)["seconds"] / 1e9}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]), sys.argv[3])))  # noqa: T201
