"""A scan that cannot be scored does not block others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from s2vnet.inference.segmenter import Segmenter
from s2vnet.server import uncertainty_ranking
from s2vnet.server.model_library import ModelLibrary
from s2vnet.server.scan_library import read_scan
from s2vnet.server.session_store import SessionStore
from s2vnet.server.settings import Settings
from s2vnet.server.uncertainty_ranking import UncertaintyRanking


def test_a_scan_that_fails_is_scored_once(
    settings: Callable[..., Settings],
    segmenter: Segmenter,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    scans, tried = ["more/two.nii.gz", "one.nii.gz"], []

    def breaking(path: Path, *options: Any) -> Any:
        tried.append(path.name)
        if path.name == "two.nii.gz":
            raise RuntimeError(f"{path}: a fault that nobody has thought of")
        return read_scan(path, *options)

    monkeypatch.setattr(uncertainty_ranking, "read_scan", breaking)
    store = SessionStore(settings(), ModelLibrary.of(segmenter))
    for _ in range(2):  # as after a restart
        ranking = UncertaintyRanking(store)
        ranking.scores(scans)
        ranking.wait(60)
        assert set(ranking.scores(scans)) == {"one.nii.gz"}
        ranking.wait(60)
    assert tried == ["two.nii.gz", "one.nii.gz"]
    assert "a scan could not be scored: RuntimeError" in caplog.text
    assert "two" not in caplog.text
