"""Sizes that a header may claim."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2vnet.errors import InputError
from s2vnet.io.geometry import MAX_VOXELS
from s2vnet.io.header_checks import MAX_DEFLATE_RATIO, require_plausible_size


def test_a_file_holds_no_more_than_deflate_can_compress(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(10))
    largest = 10 * MAX_DEFLATE_RATIO
    require_plausible_size(path, largest)
    require_plausible_size(path, largest // 2, bytes_per_voxel=2)
    require_plausible_size(path, largest + 1, min_nbytes=largest + 1)
    with pytest.raises(InputError, match=f"claims {largest + 1} bytes, which a file of 10 bytes cannot hold"):
        require_plausible_size(path, largest + 1)
    with pytest.raises(InputError, match="cannot hold"):
        require_plausible_size(path, largest // 2 + 1, bytes_per_voxel=2)


def test_no_file_has_more_voxels_than_the_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    require_plausible_size(tmp_path / "a", MAX_VOXELS, min_nbytes=MAX_VOXELS)
    with pytest.raises(InputError, match=f"over the limit of {MAX_VOXELS}"):
        require_plausible_size(tmp_path / "a", MAX_VOXELS + 1, min_nbytes=2 * MAX_VOXELS)
