"""Many images by several workers: each once, right and whole, whatever dies, is damaged, or was done before."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from disks import lock
from in_process import WorkerHere

from s2vnet.batch.cases import BatchItem, list_items, local_files
from s2vnet.batch.jobs import ExtraOutputs, plan_jobs, predict
from s2vnet.batch.records import DONE_EARLIER, LABELS_EXIST
from s2vnet.batch.runner import open_batch, run_batch
from s2vnet.batch.workers import BatchSettings, ItemResult, ProcessWorker, RayWorker, Worker, WorkerLost
from s2vnet.errors import CheckpointError, InputError
from s2vnet.inference.segmenter import Segmenter, load_plan
from s2vnet.io.files import read_geometry, read_labels, write_image
from s2vnet.io.geometry import LabelMap, Volume

pytestmark = pytest.mark.timeout(300)
MakePhantom = Callable[..., tuple[Volume, LabelMap]]


@pytest.fixture
def work(model_folder: Path) -> BatchSettings:
    return BatchSettings((str(model_folder),), "cpu")


@pytest.fixture
def images(tmp_path: Path, make_phantom: MakePhantom) -> Path:
    """Folder of case00_0000.nii.gz to case03_0000.nii.gz."""
    return write_images(tmp_path / "images", make_phantom, 4)


def write_images(folder: Path, make_phantom: MakePhantom, count: int) -> Path:
    folder.mkdir()
    for seed in range(count):
        write_image(folder / f"case{seed:02d}_0000.nii.gz", make_phantom(seed=seed)[0])
    return folder


def poison(folder: Path) -> dict[str, str]:
    """Five images made unusable: what their reasons have to say, by case."""
    whole = (folder / "case01_0000.nii.gz").read_bytes()
    (folder / "case01_0000.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "case04_0000.nii.gz").write_text("not an image\n")
    (folder / "case07_0000.nii.gz").write_bytes(b"")
    volume = Volume(np.full((1, 14, 16, 9), np.nan, np.float32), read_geometry(folder / "case00_0000.nii.gz"))
    write_image(folder / "case10_0000.nii.gz", volume)
    frames = Volume(np.zeros((2, 14, 16, 9), np.float32), volume.geometry)
    write_image(folder / "case13_0000.nii.gz", frames)
    return {"case01": "", "case04": "", "case07": "", "case10": "NaN", "case13": "frames"}


def rows_of(target: Path) -> list[dict[str, str]]:
    with (target / "summary.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def expect(segmenter: Segmenter, source: Path, target: Path) -> dict[str, bytes]:
    """Files of labels by the path that has no workers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert [error for _, error in predict(segmenter, plan_jobs(source, target, 1)) if error] == []
    finally:
        torch.set_num_threads(threads)
    return {file.name: file.read_bytes() for file in sorted(target.iterdir())}


def labels_in(target: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(target.iterdir()) if file.name.endswith(".nii.gz")}


@pytest.fixture
def killed_when_first(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[int, str]]:
    """``killed_when_first(case)``: kills a worker in the middle of a case; its id, and what is said of its end."""

    def arrange(case: str, kind: type[Worker] = ProcessWorker) -> dict[int, str]:
        killed: dict[int, str] = {}
        run = kind.run

        def run_and_kill(self: Any, item: BatchItem) -> ItemResult:
            if item.case != case or killed:
                return run(self, item)
            killed[self.pid] = ""
            os.kill(self.pid, signal.SIGSTOP)  # so that it cannot be done before
            threading.Timer(0.2, os.kill, (self.pid, signal.SIGKILL)).start()
            try:
                return run(self, item)
            except WorkerLost as error:
                killed[self.pid] = str(error)
                raise

        monkeypatch.setattr(kind, "run", run_and_kill)
        return killed

    return arrange


def test_two_workers_write_what_none_writes_and_report_what_is_poisoned(
    segmenter: Segmenter, work: BatchSettings, make_phantom: MakePhantom, tmp_path: Path
) -> None:
    source, target = write_images(tmp_path / "images", make_phantom, 20), tmp_path / "out"
    expected = expect(segmenter, source, tmp_path / "expected")
    bad = poison(source)
    records, total = open_batch(str(source), str(target), work, 1, workers=2)
    found = list(records)
    assert total == len(found) == len({record.case for record in found}) == 20
    failed = {record.case: record for record in found if record.state == "failed"}
    assert failed.keys() == bad.keys()
    for case, word in bad.items():
        assert word in failed[case].reason
        assert f"{case}_0000.nii.gz" in failed[case].reason
        assert "\n" not in failed[case].reason
    assert {record.attempts for record in found} == {1}
    assert {record.worker for record in found} == {1, 2}
    assert labels_in(target) == {name: data for name, data in expected.items() if name.split(".")[0] not in bad}
    rows = rows_of(target)
    assert [row["case"] for row in rows] == sorted(record.case for record in found)
    assert {row["case"] for row in rows if row["state"] == "failed"} == bad.keys()
    assert all(float(row["memory_mb"]) > 50 and float(row["seconds"]) > 0 for row in rows if row["state"] == "done")
    assert not [file for file in target.iterdir() if file.is_dir()]


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


@pytest.mark.usefixtures("in_process")
def test_a_batch_begun_anew_does_what_is_left(work: BatchSettings, images: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    asked = BatchSettings(work.models, "cpu", ExtraOutputs(overlay=True, volumes=True))
    begun = open_batch(str(images), str(target), asked, 1)[0]
    assert isinstance(begun, Iterator)
    first = next(begun)
    begun.close()  # type: ignore[attr-defined]  # as an interrupt does
    with (target / "summary.csv").open("a") as stream:
        stream.write("case03,done,,1.0")  # and a killed one may leave
    os.utime(target / f"{first.case}.nii.gz", (0, 2 * 10**9))  # whatever the clock says
    written = (target / f"{first.case}.nii.gz").stat().st_mtime_ns
    records = {record.case: record for record in open_batch(str(images), str(target), asked, 1)[0]}
    assert {case: record.state for case, record in records.items()} == {
        f"case0{n}": "skipped" if f"case0{n}" == first.case else "done" for n in range(4)
    }
    assert records[first.case].volumes == first.volumes
    assert (target / f"{first.case}.nii.gz").stat().st_mtime_ns == written
    assert {file.name for file in target.glob("*.png")} == {f"case0{n}.png" for n in range(4)}
    table = (target / "volumes.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table] == ["case", "case00", "case01", "case02", "case03"]
    assert len(rows_of(target)) == 4


@pytest.mark.usefixtures("in_process")
def test_volumes_are_those_of_the_path_without_workers(
    segmenter: Segmenter, work: BatchSettings, images: Path, tmp_path: Path
) -> None:
    list(predict(segmenter, plan_jobs(images, tmp_path / "one", 1), extras=ExtraOutputs(volumes=True)))
    asked = BatchSettings(work.models, "cpu", ExtraOutputs(volumes=True))
    for skip in (False, True):
        (tmp_path / "one" / "batch.json").unlink(missing_ok=True)
        target = tmp_path / ("one" if skip else "many")
        records = list(open_batch(str(images), str(target), asked, 1, skip_existing=skip)[0])
        assert {(record.state, record.reason) for record in records} == {
            ("skipped", LABELS_EXIST) if skip else ("done", "")
        }
        assert (target / "volumes.csv").read_bytes() == (tmp_path / "one" / "volumes.csv").read_bytes()


@pytest.mark.usefixtures("in_process")
def test_other_settings_are_another_batch_unless_existing_labels_are_kept(
    work: BatchSettings, images: Path, tmp_path: Path
) -> None:
    target = str(tmp_path / "out")
    assert {record.state for record in open_batch(str(images), target, work, 1)[0]} == {"done"}
    other = BatchSettings(work.models, "cpu", classes=(2,))
    kept = list(open_batch(str(images), target, other, 1, skip_existing=True)[0])
    assert {(record.state, record.reason) for record in kept} == {("skipped", LABELS_EXIST)}
    assert {record.state for record in open_batch(str(images), target, other, 1)[0]} == {"done"}
    assert set(np.unique(read_labels(tmp_path / "out" / "case00.nii.gz").data)) <= {0, 2}


@pytest.mark.usefixtures("in_process")
def test_two_batches_do_not_write_to_one_folder(work: BatchSettings, images: Path, tmp_path: Path) -> None:
    first, _ = open_batch(str(images), str(tmp_path / "out"), work, 1)
    next(first)
    with pytest.raises(InputError, match="another batch writes there"):
        list(open_batch(str(images), str(tmp_path / "out"), work, 1)[0])
    assert [record.state for record in first] == ["done"] * 3


@pytest.mark.usefixtures("in_process")
def test_a_list_names_images_and_cases(segmenter: Segmenter, work: BatchSettings, images: Path, tmp_path: Path) -> None:
    expected = expect(segmenter, images, tmp_path / "expected")
    listed = tmp_path / "list.csv"
    lines = ["image,case,age", "images/case00_0000.nii.gz,ward 1/a,7", f"file://{images}/case01_0000.nii.gz,,8"]
    listed.write_text("\n".join([*lines, "images/absent.nii.gz,,9"]))
    records = {record.case: record for record in open_batch(str(listed), str(tmp_path / "out"), work, 1)[0]}
    assert {case: record.state for case, record in records.items()} == {
        "ward 1/a": "done",
        "case01": "done",
        "absent": "failed",
    }
    assert "no such file" in records["absent"].reason
    assert (tmp_path / "out" / "ward 1" / "a.nii.gz").read_bytes() == expected["case00.nii.gz"]
    assert (tmp_path / "out" / "case01.nii.gz").read_bytes() == expected["case01.nii.gz"]


@pytest.mark.usefixtures("in_process")
def test_a_list_and_a_summary_in_parquet(work: BatchSettings, images: Path, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow (the extra parquet) is not installed")
    from pyarrow import parquet

    listed = tmp_path / "list.parquet"
    names = [str(images / f"case0{n}_0000.nii.gz") for n in range(2)]
    parquet.write_table(pyarrow.table({"image": names, "case": ["x", None]}), listed)
    asked = BatchSettings(work.models, "cpu", ExtraOutputs(volumes=True))
    records = {record.case: record for record in open_batch(str(listed), str(tmp_path / "out"), asked, 1)[0]}
    found = parquet.read_table(tmp_path / "out" / "summary.parquet").to_pylist()
    assert [row["case"] for row in found] == ["x", "case01"]
    for row in found:
        record = records[row["case"]]
        assert (row["state"], row["seconds"], row["memory_mb"]) == ("done", record.seconds, record.memory_mb)
        assert {name: row[f"{name} (ml)"] for name in record.volumes} == record.volumes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scan\na.nii.gz", "no column 'image' but scan"),
        ("image,case\na.nii.gz,../../a", "no name for a file"),
        ("image,case\na.nii.gz,x\nb.nii.gz,x", "two images are case x"),
        ("image\n", "lists no images"),
        ("image,case\n,x", "row 1 names no image"),
        ("image\nout/a.nii.gz", "would replace the image"),
        ("image\nnosuch://a.nii.gz", None),
    ],
)
def test_lists_that_are_refused(tmp_path: Path, text: str, message: str | None) -> None:
    (tmp_path / "list.csv").write_text(text)
    if message is None:
        assert len(list_items(str(tmp_path / "list.csv"), str(tmp_path / "out"), 1)) == 1
        return
    with pytest.raises(InputError, match=message):
        list_items(str(tmp_path / "list.csv"), str(tmp_path / "out"), 1)


@pytest.mark.usefixtures("in_process")
def test_images_and_labels_in_a_store(
    segmenter: Segmenter, work: BatchSettings, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = expect(segmenter, images, tmp_path / "expected")
    store = fsspec.filesystem("memory")
    store.rm("/", recursive=True)
    store.put(f"{images}/", "/scans/ward/", recursive=True)
    store.pipe_file("/scans/damaged.nii.gz", b"no image")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    for target in (str(tmp_path / "out"), "memory://labels"):
        records = {record.case: record for record in open_batch("memory://scans", target, work, 1)[0]}
        assert {case for case, record in records.items() if record.state == "done"} == {
            f"ward/case0{n}" for n in range(4)
        }
        assert "memory://" in records["damaged"].reason
        assert str(temporary) not in records["damaged"].reason
        assert [file for file in temporary.iterdir() if file.name.startswith("s2vnet-")] == []
    assert labels_in(tmp_path / "out" / "ward") == expected
    assert {Path(path).name: store.cat_file(path) for path in store.find("/labels/ward")} == expected
    assert b"ward/case03,done" in store.cat_file("/labels/summary.csv")
    again = list(open_batch("memory://scans", "memory://labels", work, 1)[0])
    assert sorted(record.state for record in again) == ["failed"] + ["skipped"] * 4
    with pytest.raises(InputError, match="lies among the images"):
        list_items("memory://scans", "memory://scans/labels", 1)
    with pytest.raises(InputError, match="cannot be read"):
        list_items("nosuch://scans", str(tmp_path / "out"), 1)


@pytest.mark.parametrize("name", ["../../../1.dcm", "a/../../1.dcm", "..\\1.dcm"])
def test_names_in_a_store_do_not_lead_out_of_the_folder_that_they_are_fetched_to(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = fsspec.filesystem("memory")
    store.rm("/", recursive=True)
    store.pipe_file(f"/scans/series/{name}", b"no image")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "deep" / "er"))
    item = BatchItem("x", ("memory://scans/series",), str(tmp_path / "out" / "x.nii.gz"))
    with pytest.raises(InputError, match="is no name for a file; rename it"), local_files(item):
        raise AssertionError("nothing is at hand")
    with pytest.raises(InputError, match="names no image"), local_files(replace(item, images=("memory://scans/..",))):
        raise AssertionError("nothing is at hand")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_folders_that_cannot_be_written(
    work: BatchSettings, make_phantom: MakePhantom, disk: Callable[[int], Path]
) -> None:
    folder = disk(1 << 20)
    images = write_images(folder / "images", make_phantom, 1)
    (images.parent / "link").symlink_to(images)
    listed = folder / "list.csv"
    listed.write_text("image,case\nimages/case00_0000.nii.gz,case00_0000")
    with pytest.raises(InputError, match="would replace the image"):  # through whatever link
        list_items(str(listed), str(folder / "link"), 1)
    lock(folder)
    for target in (folder, folder / "out"):
        with pytest.raises(InputError, match="Read-only file system; choose"):
            list(open_batch(str(images), str(target), work, 1)[0])


def test_a_batch_needs_no_network_where_it_is_begun(
    segmenter: Segmenter,
    work: BatchSettings,
    save: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr("s2vnet.model.checkpoint.S2VNet")
    assert load_plan(*work.models) == segmenter.plan
    folder = save()
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="does not match the hash"):
        load_plan(folder)


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


def test_what_cannot_be_a_batch(work: BatchSettings, images: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs a folder"):
        open_batch(str(images / "case00_0000.nii.gz"), str(tmp_path / "a.nii.gz"), work, 1)
    with pytest.raises(InputError, match="no engine 'dask'"):
        open_batch(str(images), str(tmp_path / "out"), work, 1, engine="dask")


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
