"""Tables show every measured result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.reports.costs import markdown

ABOUT = {"command": "python -m benchmarks.speed SCAN", "date": "2026-11-26", "hardware": "a processor"}


def test_ratio_of_seconds_to_s2vnet(tmp_path: Path, speed: dict[str, Any]) -> None:
    (tmp_path / "speed.json").write_text(json.dumps(speed))
    text = markdown(tmp_path, "images/growth.png")
    assert "| nnU-Net's 3D network | 256 | 16 | 6 | 10.0 | 80.0 | 19.0 | 2000 | 2.50 / 20.00 | 2.50 / 20.00 |" in text
    assert "| UNETR | 512 | 32 | 9 | 2.0 | - | 3.0 | 1000 | 0.25 | 0.25 |" in text  # without mirroring
    assert "| OpenVINO | 256 | 16 | 4.00 | 2.00 | 1.50 | 0.50 | 2.50 | 900 | 7.0 |\n" in text
    assert "| torch | 3.00 | 0.50 | 0.70 | 0.90 | 60.0 |" in text
    assert "Energy: no counters on this machine." in text
    assert "](images/growth.png)" in text
    speed["scans"][0]["ours"]["torch"]["joules"] = 250.0
    (tmp_path / "speed.json").write_text(json.dumps(speed))
    assert "| torch | 256 | 16 | 4.00 | 2.00 | 1.50 | 0.50 | 2.50 | 900 | 7.0 | 250 |" in markdown(tmp_path)


def test_only_measured_results_have_a_section(tmp_path: Path) -> None:
    assert markdown(tmp_path, "images/growth.png") == ""
    kills = {
        "kills": 20,
        "kills_of_each_training": [20],
        "same_weights": True,
        "same_losses": False,
        "seconds_undisturbed": 60.0,
        "seconds": 400.0,
    }
    (tmp_path / "faults.json").write_text(json.dumps(ABOUT | kills))
    assert markdown(tmp_path).startswith("## Training under kills\n")
    assert "weights bit-identical, logged losses **different**" in markdown(tmp_path)
    runs = [{"slices": n, "seconds": n / 2, "peak_bytes": n * 10**7, "max_memory_bytes": 0} for n in (150, 400)]
    runs[1]["growth_beyond_input_and_labels_mb_per_slice"] = 0.125
    about = {"command": "c", "date": "d", "processor": "p", "model": "m", "side": 512}
    (tmp_path / "memory.json").write_text(json.dumps(about | {"runs": runs}))
    assert "| 150 | 75.0 | 1500 | - | - |\n| 400 | 200.0 | 4000 | 0.125 | - |\n" in markdown(tmp_path)
