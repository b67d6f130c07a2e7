"""Workers of a batch: actors of Ray, and errors in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from label_folders import expect, labels_in

from s2vnet.batch.runner import open_batch
from s2vnet.batch.workers import BatchSettings, RayWorker, describe_error
from s2vnet.errors import InputError
from s2vnet.inference.segmenter import Segmenter

pytestmark = pytest.mark.timeout(300)


def test_actors_of_ray_do_the_same(
    segmenter: Segmenter,
    work: BatchSettings,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    killed_when_first: Callable[..., dict[int, str]],
) -> None:
    ray = pytest.importorskip("ray", reason="ray (the extra ray) is not installed")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    expected = expect(segmenter, images, tmp_path / "expected")
    (images / "damaged.nii.gz").write_text("no image")
    killed = killed_when_first("case01", RayWorker)
    try:
        records = list(open_batch(str(images), str(tmp_path / "out"), work, 1, engine="ray", workers=1)[0])
    finally:
        ray.shutdown()
    assert {record.case: record.state for record in records} == {f"case0{n}": "done" for n in range(4)} | {
        "damaged": "failed"
    }
    assert len(killed) == 1
    assert {record.case: record.attempts for record in records}["case01"] == 2
    assert labels_in(tmp_path / "out") == expected
    assert json.loads((tmp_path / "out" / "batch.json").read_text())["classes"] is None


def test_ray_that_is_missing_is_one_line(
    work: BatchSettings, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r'pip install "s2vnet\[ray\]"'):
        open_batch(str(images), str(tmp_path / "out"), work, 1, engine="ray")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("two\n lines"), "ValueError: two lines"),
        (KeyError(), "KeyError"),
        (OSError("x" * 300), f"OSError: {'x' * 200}"),
    ],
)
def test_an_unexpected_error_is_one_short_line(error: Exception, text: str) -> None:
    assert describe_error(error) == text
