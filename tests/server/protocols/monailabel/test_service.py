"""Choice of the next scan by its uncertainty."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.io.files import read_image, write_image
from s2vnet.io.geometry import Volume


def test_the_most_uncertain_scan_is_chosen_and_scores_are_saved(
    serve: Callable[..., TestClient], segmenter: Segmenter, tmp_path: Path, bordered: Volume
) -> None:
    """Whichever that is: the entropy of every scan, by definition, from a session of one's own."""
    data, expected = tmp_path / "scans", {}
    data.mkdir()
    for name, part in (("a.nii.gz", bordered.data[..., ::-1]), ("b.nii.gz", bordered.data * 0.2), ("c.nii.gz", None)):
        if part is None:
            (data / name).write_bytes(b"no scan")
            continue
        write_image(data / name, Volume(np.ascontiguousarray(part), bordered.geometry))
        scores = Session(segmenter, read_image(data / name))._segmentation().scores.double()
        expected[name] = float(-(scores * scores.clamp_min(1e-12).log()).sum(1).mean())
    client = serve(data=data)
    assert "uncertainty" in client.get("/monailabel/info/").json()["strategies"]
    assert (
        client.post("/monailabel/activelearning/uncertainty", json={}).json()["id"] == "a.nii.gz"
    )  # none is known yet
    service = client.app.state.monailabel  # type: ignore[attr-defined]
    service.uncertainty.wait(60)
    assert service.uncertainty.scores(["a.nii.gz", "b.nii.gz", "c.nii.gz"]) == pytest.approx(expected, rel=1e-3)
    most_uncertain = max(expected, key=lambda name: expected[name])
    for asked in (client, serve(data=data)):
        assert asked.post("/monailabel/activelearning/uncertainty", json={}).json()["id"] == most_uncertain
        assert asked.app.state.monailabel.uncertainty._thread is None  # type: ignore[attr-defined]
    assert ".nii" not in (tmp_path / "state" / "doubts.json").read_text()
    write_image(data / "a.nii.gz", bordered)
    assert set(service.uncertainty.scores(["a.nii.gz", "b.nii.gz"])) == {"b.nii.gz"}  # another file now
