"""The test vectors of docs/corrections.md are what the package computes."""

from __future__ import annotations

import base64
import json
import runpy
import zlib
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "correction_vectors.py"


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((SCRIPT.parent.parent / "docs" / "correction-vectors.json").read_text())
    return content


@pytest.fixture(scope="module")
def computed() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(json.dumps(runpy.run_path(str(SCRIPT))["vectors"]()))
    return content


def unpack(packed: str) -> bytes:
    return zlib.decompress(base64.b64decode(packed))


def test_logs_lead_to_the_stored_labels(stored: dict[str, Any], computed: dict[str, Any]) -> None:
    assert stored["logs"].keys() == computed["logs"].keys()
    for name, log in stored["logs"].items():
        assert log["entries"] == computed["logs"][name]["entries"]
        assert log["changed"] == computed["logs"][name]["changed"], name
        assert unpack(log["labels"]) == unpack(computed["logs"][name]["labels"]), name
    assert unpack(stored["labels"]) == unpack(computed["labels"])


def test_windows_and_pixels_lie_where_they_did(stored: dict[str, Any], computed: dict[str, Any]) -> None:
    for name in ("windows", "voxels_to_pixels"):
        assert stored[name] == computed[name]
    for name in ("image", "probabilities", "features"):
        assert unpack(stored["volume"][name]["zlib"]) == unpack(computed["volume"][name]["zlib"])


def test_maps_have_the_stored_values(stored: dict[str, Any], computed: dict[str, Any]) -> None:
    for one, two in zip(stored["maps"], computed["maps"], strict=True):
        assert {**one, "maps": None} == {**two, "maps": None}
        for name, values in one["maps"].items():
            found = two["maps"][name]
            assert found["values"] == pytest.approx(values["values"], abs=2e-3), name
            assert found["sum"] == pytest.approx(values["sum"], rel=1e-4, abs=0.1), name
