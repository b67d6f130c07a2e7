"""Clients of the protocols click at their pace, and results of other clicks are noticed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from listening import listening

from benchmarks import protocol_clients
from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.io.files import write_image
from s2vnet.io.geometry import Volume
from s2vnet.server.app import create_app
from s2vnet.server.model_library import ModelLibrary
from s2vnet.server.protocols.nninteractive import lease
from s2vnet.server.settings import Settings

pytest.importorskip("nnInteractive.inference.remote.remote_session")
NAMES = ["scan-0.nii.gz", "scan-1.nii.gz"]


@pytest.fixture
def volumes(bordered: Volume) -> list[Volume]:
    return protocol_clients.scan_variants(bordered, bordered.data.shape[3], 2)


@pytest.fixture
def address(volumes: list[Volume], tmp_path: Path, model_folder: Path, segmenter: Segmenter) -> Iterator[str]:
    """A server that listens."""
    (tmp_path / "scans").mkdir()
    for name, volume in zip(NAMES, volumes, strict=True):
        write_image(tmp_path / "scans" / name, volume)
    settings = Settings(models=(str(model_folder),), data=tmp_path / "scans", state=tmp_path / "state")
    with listening(create_app(settings, ModelLibrary.of(segmenter, model_folder))) as address:
        yield f"{address}/"


def test_scans_differ_and_keep_their_axes(bordered: Volume) -> None:
    first, second, third = protocol_clients.scan_variants(bordered, 9, 3)
    assert first.data.shape == second.data.shape == third.data.shape == (*bordered.data.shape[:3], 9)
    assert first.geometry.orientation.codes == bordered.geometry.orientation.codes
    assert not any(np.array_equal(a.data, b.data) for a, b in ((first, second), (second, third), (first, third)))


def test_every_client_gets_the_results_of_its_own_clicks(
    address: str, volumes: list[Volume], segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RESPONSE_S", 0.05)  # so that clients meet scans that are still being encoded
    monkeypatch.setattr(protocol_clients, "INTERVAL_S", 0.2)
    monkeypatch.setattr(protocol_clients, "HEALTH_INTERVAL_S", 0.1)
    sessions = [Session(segmenter, volume) for volume in volumes]
    encode = Segmenter.encode

    def slow(*arguments: Any, **more: Any) -> Any:
        time.sleep(0.5)
        monkeypatch.setattr(lease, "RESPONSE_S", 50.0)
        return encode(*arguments, **more)

    monkeypatch.setattr(Segmenter, "encode", slow)
    result = protocol_clients.measure(address, os.getpid(), sessions, volumes, NAMES, (3, 2), 2 / 60)
    assert result["errors"] == []
    assert result["results_compared"] == 5
    assert result["clients_with_results_of_other_clicks"] == []
    assert min(result[name]["count"] for name in ("nninteractive_ms", "monailabel_ms", "healthz_ms")) > 0
    others = protocol_clients.measure(address, os.getpid(), sessions[::-1], volumes, NAMES, (2, 1), 1 / 60)
    assert others["clients_with_results_of_other_clicks"] != []
