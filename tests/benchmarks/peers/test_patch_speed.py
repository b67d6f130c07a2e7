"""Time of a scan from that of a patch."""

from __future__ import annotations

from benchmarks import speed
from benchmarks.peers.patch_speed import scan_time


def test_patches_overlap_by_half_and_cover_the_scan() -> None:
    one = {"seconds": 2.0, "cpu_seconds": 3.0, "peak_mb": 100.0}
    size = (64 * speed.SLICE_MM, speed.SIDE_MM, speed.SIDE_MM)
    scan = scan_time("unetr", size, 64, one)  # 64 voxels along slices, 239 in plane, 96 a patch: 1 x 4 x 4
    assert scan["patches"] == 16
    assert (scan["seconds"], scan["mirrored_seconds"], scan["cpu_seconds"]) == (32.0, 32.0, 48.0)
    assert scan_time("nnunet2d", size, 64, one)["patches"] == 64  # a slice of 472 pixels fits into 512
    assert scan_time("nnunet2d", size, 64, one)["mirrored_seconds"] == 4 * 64 * 2.0
