"""Tables and the growth figure show every measured result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.reports.cost_figures import growth
from benchmarks.reports.costs import markdown

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


def test_figure_shows_every_result(speed: dict[str, Any]) -> None:
    small, large, memory, classes, points, spare, right = growth(speed).axes
    for axes, pixels in ((small, 256), (large, 512)):
        assert pixels == int(axes.get_title().split()[0])
        lines = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
        assert lines["S2VNet by torch"] == [4, 8]
        assert lines["encoder alone by OpenVINO"] == [1.6, 1.6]
        assert lines["nnU-Net's 3D network, mirrored"] == [80, 80]
        assert "UNETR, mirrored" not in lines
        assert axes.get_yscale() == "log"
    assert [list(line.get_ydata()) for line in memory.lines].count([900, 900]) == 2 * 2  # runtimes, sizes
    assert [list(line.get_ydata()) for line in memory.lines].count([2000, 2000]) == 1  # nnU-Net's 3D network
    assert list(classes.lines[0].get_ydata()) == [4, 12]
    assert list(right.lines[0].get_ydata()) == [900, 900]
    assert list(points.lines[0].get_xdata()) == [1, 64]
    assert not spare.axison


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
