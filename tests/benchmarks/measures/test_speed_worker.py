"""Every speed measurement runs, and its parts add up to the total."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks.measures.speed_worker import measure
from s2vnet.io.files import write_image
from s2vnet.io.geometry import Volume


@pytest.mark.parametrize("task", ["scan:torch", "classes:5"])
def test_parts_of_a_scan_add_up_to_the_total(task: str, model_folder: Path, bordered: Volume, tmp_path: Path) -> None:
    write_image(tmp_path / "scan.nii.gz", bordered)
    times = measure(task, tmp_path / "scan.nii.gz", str(model_folder))
    parts = [times[key] for key in ("encoding", "decoding", "rest")]
    assert min(parts) > 0
    assert math.fsum(parts) == pytest.approx(times["seconds"])
    assert 0 < times["cpu_seconds"] < 100 * times["seconds"]
    assert times["peak_mb"] > 10


def test_rounds_are_timed_for_every_number_of_points(model_folder: Path, bordered: Volume, tmp_path: Path) -> None:
    write_image(tmp_path / "scan.nii.gz", bordered)
    rounds = measure("points:torch", tmp_path / "scan.nii.gz", str(model_folder))["rounds"]
    assert list(rounds) == [1, 4, 16, 64]
    assert min(one["seconds"] for one in rounds.values()) > 0
    prompts = measure("prompts:torch", tmp_path / "scan.nii.gz", str(model_folder))
    alone = measure("encoder:torch", tmp_path / "scan.nii.gz", str(model_folder))
    assert prompts["automatic_seconds"] > 0 < alone["seconds"]
