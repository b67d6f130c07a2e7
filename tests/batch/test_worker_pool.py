"""Lost workers are replaced, and their cases are tried again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from in_process import WorkerHere
from label_folders import expect, labels_in

from s2vnet.batch.cases import BatchItem, list_items
from s2vnet.batch.records import DONE_EARLIER
from s2vnet.batch.runner import open_batch, run_batch
from s2vnet.batch.workers import BatchSettings, ItemResult, ProcessWorker, WorkerLost
from s2vnet.inference.segmenter import Segmenter

pytestmark = pytest.mark.timeout(300)


def test_a_killed_worker_loses_nothing(
    segmenter: Segmenter,
    work: BatchSettings,
    images: Path,
    tmp_path: Path,
    killed_when_first: Callable[..., dict[int, str]],
) -> None:
    expected = expect(segmenter, images, tmp_path / "expected")
    killed = killed_when_first("case01")
    records = list(open_batch(str(images), str(tmp_path / "out"), work, 1, workers=1)[0])
    assert ["signal 9" in said for said in killed.values()] == [True]
    assert {record.case: (record.state, record.attempts) for record in records} == {
        "case00": ("done", 1),
        "case01": ("done", 2),
        "case02": ("done", 1),
        "case03": ("done", 1),
    }
    assert {record.case: record.worker for record in records}["case01"] == 2
    assert labels_in(tmp_path / "out") == expected


@pytest.mark.usefixtures("in_process")
def test_a_case_that_kills_its_workers_is_set_aside_and_tried_by_the_next_run(
    work: BatchSettings, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[WorkerHere] = []
    run, target = WorkerHere.run, tmp_path / "out"

    def run_or_die(self: WorkerHere, item: BatchItem) -> ItemResult:
        if item.case == "case01" and len(killed) < 3:
            killed.append(self)
            raise WorkerLost("its worker was killed")
        return run(self, item)

    monkeypatch.setattr(WorkerHere, "run", run_or_die)
    records = list(open_batch(str(images), str(target), work, 1, workers=1, attempts=3)[0])
    assert len(set(map(id, killed))) == 3
    (failed,) = [record for record in records if record.state == "failed"]
    assert (failed.case, failed.attempts) == ("case01", 3)
    assert failed.reason == "its worker was killed, in attempt 3 of 3"
    assert sum(record.state == "done" for record in records) == 3
    assert not (target / "case01.nii.gz").exists()
    assert not [file for file in target.iterdir() if file.is_dir()]
    again = {record.case: record for record in open_batch(str(images), str(target), work, 1)[0]}
    assert again.pop("case01").state == "done"
    assert {(record.state, record.reason) for record in again.values()} == {("skipped", DONE_EARLIER)}


def test_workers_that_cannot_start_fail_their_cases_and_end_the_batch(
    work: BatchSettings, images: Path, tmp_path: Path
) -> None:
    items = list_items(str(images), str(tmp_path / "out"), 1)
    absent = BatchSettings(work.models, "tpu")
    records = list(run_batch(items, str(tmp_path / "out"), absent, partial(ProcessWorker, absent), workers=1))
    assert [record.state for record in records] == ["failed"] * 4
    assert all("device tpu is not available" in record.reason for record in records)

    def dies() -> ProcessWorker:
        raise WorkerLost("its worker ended with code 3")

    records = list(run_batch(items, str(tmp_path / "out"), work, dies, workers=2))
    assert {record.reason for record in records} == {"no worker could be started: its worker ended with code 3"}
