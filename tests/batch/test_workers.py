"""Workers of a batch: actors of Ray, and errors in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from label_folders import expect, labels_in

from s2vnet.batch.cases import BatchItem, TransientError
from s2vnet.batch.runner import open_batch
from s2vnet.batch.workers import BatchSettings, ItemResult, RayWorker, _pack, _unpack
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
    with pytest.raises(InputError, match=r'^--engine ray needs ray: pip install "ray'):
        open_batch(str(images), str(tmp_path / "out"), work, 1, engine="ray")


@pytest.mark.parametrize("error", [ValueError("Doe^Jane"), KeyError("Doe^Jane"), OSError("Doe^Jane")])
def test_unexpected_errors_of_a_worker_state_type_and_place_only(
    error: Exception, work: BatchSettings, images: Path, tmp_path: Path
) -> None:
    def fails(item: BatchItem) -> ItemResult:
        raise error

    with pytest.raises(TransientError) as caught:
        _unpack(*_pack(fails, BatchItem("one", (str(images),), str(tmp_path / "one.nii.gz"))))
    assert f"unexpected {type(error).__name__} in test_workers.py, line " in str(caught.value)
    assert "Doe" not in str(caught.value)


def test_errors_of_a_store_are_quoted(tmp_path: Path) -> None:
    def fails(item: BatchItem) -> ItemResult:
        raise TransientError("s3://bucket/a.nii.gz: cannot be read or written (access denied)")

    with pytest.raises(TransientError, match="access denied"):
        _unpack(*_pack(fails, BatchItem("one", ("a.nii.gz",), str(tmp_path / "one.nii.gz"))))
