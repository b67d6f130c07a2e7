"""Every speed measurement runs, and its parts add up to the total."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks import speed
from benchmarks.measures.speed_worker import measure
from benchmarks.peers.patch_speed import scan_time
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


def test_patches_overlap_by_half_and_cover_the_scan() -> None:
    one = {"seconds": 2.0, "cpu_seconds": 3.0, "peak_mb": 100.0}
    size = (64 * speed.SLICE_MM, speed.SIDE_MM, speed.SIDE_MM)
    scan = scan_time("unetr", size, 64, one)  # 64 voxels along slices, 239 in plane, 96 a patch: 1 x 4 x 4
    assert scan["patches"] == 16
    assert (scan["seconds"], scan["mirrored_seconds"], scan["cpu_seconds"]) == (32.0, 32.0, 48.0)
    assert scan_time("nnunet2d", size, 64, one)["patches"] == 64  # a slice of 472 pixels fits into 512
    assert scan_time("nnunet2d", size, 64, one)["mirrored_seconds"] == 4 * 64 * 2.0


def test_median_of_unmeasured_figure_is_none() -> None:
    assert speed._median([{"seconds": s, "joules": None} for s in (1.0, 5.0, 2.0)]) == {"seconds": 2.0, "joules": None}
