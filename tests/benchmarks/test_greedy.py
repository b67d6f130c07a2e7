"""The greedy requests are what they claim, and a server answers all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from listening import listening

from benchmarks import greedy
from s2vnet.inference.segmenter import Segmenter
from s2vnet.io.files import read_geometry, write_image
from s2vnet.io.geometry import Geometry, Volume
from s2vnet.server.app import create_app
from s2vnet.server.settings import Settings


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HUGE": (9, 10, 11), "DRAWN": 20, "SESSIONS": 2, "PIECE": 1 << 10}.items():
        monkeypatch.setattr(greedy, name, value)
    monkeypatch.setattr(greedy, "UPLOADED_MB", 1)


@pytest.mark.usefixtures("small")
def test_images_of_zeros_unpack_to_their_size(tmp_path: Path) -> None:
    (tmp_path / "zeros.nii.gz").write_bytes(greedy._huge_nifti(np.dtype(np.float64)))
    assert read_geometry(tmp_path / "zeros.nii.gz").shape == greedy.HUGE


@pytest.mark.usefixtures("small")
def test_every_request_is_answered(model_folder: Path, segmenter: Segmenter, tmp_path: Path) -> None:
    data = np.random.default_rng(0).random((1, 18, 20, 13)).astype(np.float32)
    volume = Volume(data, Geometry.from_codes((18, 20, 13), (1, 1, 1), "RAS"))
    (tmp_path / "scans").mkdir()
    write_image(tmp_path / "scans" / "scan.nii.gz", volume)
    settings = Settings(model=str(model_folder), data=tmp_path / "scans", state=tmp_path / "state")
    with (
        listening(create_app(settings, segmenter)) as address,
        greedy.Greedy(f"{address}/", volume, "scan.nii.gz") as sender,
    ):
        for name, send in sender.requests().items():
            codes = send()
            assert codes, name
            assert 500 not in codes, name
            assert codes[0] == 200 or "zeros" in name or "JSON" in name or codes[0] == 201, name
