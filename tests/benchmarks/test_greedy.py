"""The greedy requests are what they claim."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import greedy
from s2vnet.io.files import read_image


def test_images_of_zeros_unpack_to_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greedy, "HUGE", (9, 10, 11))
    monkeypatch.setattr(greedy, "PIECE", 1 << 10)
    (tmp_path / "zeros.nii.gz").write_bytes(greedy._huge_nifti(np.dtype(np.float64)))
    volume = read_image(tmp_path / "zeros.nii.gz")
    assert volume.geometry.shape == greedy.HUGE
    assert not volume.data.any()
