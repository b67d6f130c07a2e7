"""Result of the speed benchmark, with round figures."""

from __future__ import annotations

from typing import Any

import pytest

RUN = {"seconds": 4.0, "cpu_seconds": 7.0, "joules": None, "encoding": 2.0, "decoding": 1.5, "rest": 0.5}
RUN |= {"peak_mb": 900.0, "encoder_alone": 1.6, "encoder_alone_cpu_seconds": 3.0}
PEERS = {
    "nnunet3d": {"patches": 6, "seconds": 10.0, "mirrored_seconds": 80.0, "cpu_seconds": 19.0, "peak_mb": 2000.0},
    "unetr": {"patches": 9, "seconds": 2.0, "mirrored_seconds": 2.0, "cpu_seconds": 3.0, "peak_mb": 1000.0},
}
TIMES = {"automatic_seconds": 3.0, "one_prompt_seconds": 0.5, "one_prompt_cpu_seconds": 0.9}
TIMES |= {"prompt_for_every_class_seconds": 0.7}
ABOUT = {"command": "python -m benchmarks.speed SCAN", "date": "2026-11-26", "hardware": "a processor"}


@pytest.fixture
def speed() -> dict[str, Any]:
    def scan(pixels: int, slices: int) -> dict[str, Any]:
        ours = {r: RUN | {"seconds": RUN["seconds"] * slices / 16} for r in ("torch", "openvino")}
        return {"pixels": pixels, "slices": slices, "ours": ours, "others": PEERS}

    points = {"torch": {n: {"seconds": 0.5, "cpu_seconds": 0.9} for n in ("1", "64")}}
    grown = {"pixels": 256, "slices": 16, "classes": {"2": RUN, "128": RUN | {"seconds": 12.0}}, "points": points}
    return {
        **ABOUT,
        **{"matrix_gflops": 90.0, "repeats": 3, "scans": [scan(p, n) for p in (256, 512) for n in (16, 32)]},
        **{"others": {**PEERS, "nninteractive": {"seconds": 30.0, "cpu_seconds": 50.0, "peak_mb": 1500.0}}},
        **{"prompts": {"pixels": 256, "slices": 16, "runtimes": {"torch": TIMES}}, "growth": grown},
    }
