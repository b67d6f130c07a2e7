"""What is timed is there: every kind of measurement runs, and its parts make the whole."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import speed
from s2vnet.io.files import write_image
from s2vnet.io.geometry import Volume


@pytest.mark.parametrize("what", ["scan:torch", "classes:5"])
def test_parts_of_a_scan_make_the_whole(what: str, model_folder: Path, bordered: Volume, tmp_path: Path) -> None:
    write_image(tmp_path / "scan.nii.gz", bordered)
    found = speed._work(what, tmp_path / "scan.nii.gz", str(model_folder))
    parts = [found[key] for key in ("encoding", "decoding", "rest")]
    assert min(parts) > 0
    assert math.fsum(parts) == pytest.approx(found["seconds"])
    assert 0 < found["cpu_seconds"] < 100 * found["seconds"]
    assert found["peak_mb"] > 10


def test_rounds_of_all_numbers_of_points_are_timed(model_folder: Path, bordered: Volume, tmp_path: Path) -> None:
    write_image(tmp_path / "scan.nii.gz", bordered)
    found = speed._work("points:torch", tmp_path / "scan.nii.gz", str(model_folder))["rounds"]
    assert list(found) == [1, 4, 16, 64]
    assert min(one["seconds"] for one in found.values()) > 0
    prompts = speed._work("prompts:torch", tmp_path / "scan.nii.gz", str(model_folder))
    alone = speed._work("encoder:torch", tmp_path / "scan.nii.gz", str(model_folder))
    assert prompts["automatic_seconds"] > 0 < alone["seconds"]


def test_patches_overlap_by_a_half_and_cover_the_scan() -> None:
    one = {"seconds": 2.0, "cpu_seconds": 3.0, "peak_mb": 100.0}
    found = speed._whole("unetr", 64, one)  # 64 cells along slices, 239 in plane, 96 a patch: one and four by four
    assert found["patches"] == 16
    assert (found["seconds"], found["mirrored_seconds"], found["cpu_seconds"]) == (32.0, 32.0, 48.0)
    assert speed._whole("nnunet2d", 64, one)["patches"] == 64  # a slice of 472 cells fits into 512
    assert speed._whole("nnunet2d", 64, one)["mirrored_seconds"] == 4 * 64 * 2.0


def test_what_is_not_told_has_no_median() -> None:
    assert speed._median([{"seconds": s, "joules": None} for s in (1.0, 5.0, 2.0)]) == {"seconds": 2.0, "joules": None}
