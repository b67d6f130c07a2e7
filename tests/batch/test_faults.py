"""Memory that runs short, machines that go, a batch that is killed: no case is lost, half done or done twice."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from s2vnet.batch.cases import BatchItem
from s2vnet.batch.jobs import plan_jobs, predict
from s2vnet.batch.records import CaseRecord
from s2vnet.batch.runner import open_batch
from s2vnet.batch.workers import BatchSettings, ItemResult, ProcessWorker, RayWorker
from s2vnet.errors import InputError
from s2vnet.inference.segmenter import Segmenter
from s2vnet.io.files import write_image
from s2vnet.io.geometry import LabelMap, Volume
from s2vnet.utils.memory import is_out_of_memory, out_of_memory

KILLS = int(os.environ.get("S2VNET_KILLS", "1"))
"""Of the batch; more for a longer check."""
LARGE = (320, 320, 12)
"""Encoding it takes some hundred MB."""
pytestmark = pytest.mark.timeout(300)
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

MakePhantom = Callable[..., tuple[Volume, LabelMap]]
MakeImages = Callable[..., Path]


@pytest.fixture
def make_images(tmp_path: Path, make_phantom: MakePhantom) -> MakeImages:
    """``make_images(*shapes)``: a folder of case00_0000.nii.gz and so on."""

    def make(*shapes: tuple[int, int, int]) -> Path:
        folder = tmp_path / "images"
        folder.mkdir()
        for seed, shape in enumerate(shapes):
            write_image(folder / f"case{seed:02d}_0000.nii.gz", make_phantom(shape, seed=seed)[0])
        return folder

    return make


def status(pid: int | str, key: str) -> int:
    """A number of KB of a process's memory, as bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{key}:"))


def score(pid: int | str) -> int:
    """By how much rather than others the system kills a process where memory runs out."""
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def labels_in(target: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(target.glob("*.nii.gz"))}


def attempts(records: list[CaseRecord]) -> dict[str, tuple[str, int]]:
    assert len({record.case for record in records}) == len(records)
    return {record.case: (record.state, record.attempts) for record in records}


@linux
def test_a_case_that_needs_more_memory_than_its_worker_gets_is_set_aside(
    work: BatchSettings, make_images: MakeImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    run, limited = ProcessWorker.run, list[int]()
    own = score("self")

    def run_in_little(self: ProcessWorker, item: BatchItem) -> ItemResult:
        if self.pid not in limited:
            limited.append(self.pid)
            assert score(self.pid) == min(1000, own + 500)  # the system rather takes it than the batch
            resource.prlimit(self.pid, resource.RLIMIT_DATA, (status(self.pid, "VmData") + (100 << 20),) * 2)
        return run(self, item)

    monkeypatch.setattr(ProcessWorker, "run", run_in_little)
    images, target = make_images((14, 16, 9), LARGE, (14, 16, 9)), tmp_path / "out"
    records = list(open_batch(str(images), str(target), work, 1, workers=1, cpus=1, attempts=1)[0])
    assert attempts(records) == {"case00": ("done", 1), "case01": ("failed", 1), "case02": ("done", 1)}
    reason = next(record.reason for record in records if record.case == "case01")
    assert reason.startswith("not enough memory")
    assert reason.endswith("in attempt 1 of 1")
    assert len(limited) == 2  # nobody goes on with a worker that was at its limit
    assert sorted(path.name for path in target.iterdir() if path.is_dir()) == []
    assert sorted(labels_in(target)) == ["case00.nii.gz", "case02.nii.gz"]


@pytest.mark.parametrize(
    ("error", "amount"),
    [
        (MemoryError(), ""),
        (MemoryError("Unable to allocate 8.00 GiB for an array with shape (1024, 1024, 1024)"), " for 8.00 GiB more"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes."),
            " for 99 bytes more",
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"), " for 2.00 GiB more"),
        (RuntimeError("Exception from src/inference/src/cpp/infer_request.cpp:224: std::bad_alloc"), ""),
        (Exception("Failed to allocate memory for requested buffer of size 4096"), " for 4096 bytes more"),
        (RuntimeError("Exception from src/inference/src/dev/plugin.cpp:54:\ncan't alloc"), ""),
        (MemoryError("Unable to allocate 936. KiB for an array"), " for 936 KiB more"),
        (OSError(12, "Cannot allocate memory"), ""),
    ],
)
def test_what_libraries_say_of_memory_is_one_line(error: Exception, amount: str) -> None:
    assert is_out_of_memory(error)
    assert str(out_of_memory(error)).startswith(f"not enough memory{amount}; ")
    assert not is_out_of_memory(InputError(str(error)))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def begin(work: BatchSettings, images: Path, target: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "s2vnet.cli.app", "predict", f"-m{work.models[0]}", f"-i{images}", f"-o{target}"]
    return subprocess.Popen([*command, "--workers", "1", "--device", "cpu"], stdout=subprocess.DEVNULL)


def children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def is_alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def done_in(target: Path) -> dict[str, int]:
    """When the labels were written of cases that the summary says are done; half a row may be at its end."""
    if not (target / "summary.csv").exists():
        return {}
    rows = csv.DictReader((target / "summary.csv").read_text().splitlines())
    done = [row["case"] for row in rows if row["state"] == "done" or row["reason"] == "done in an earlier run"]
    return {case: (target / f"{case}.nii.gz").stat().st_mtime_ns for case in done}


@linux
def test_a_batch_killed_at_any_moment_goes_on(
    segmenter: Segmenter, work: BatchSettings, make_images: MakeImages, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    images, target = make_images(*[(30, 30, 20)] * 6), tmp_path / "out"
    assert not [error for _, error in predict(segmenter, plan_jobs(images, tmp_path / "peace", 1)) if error]
    expected = labels_in(tmp_path / "peace")
    assert len(expected) == 6
    moments = random.Random(int(os.environ.get("S2VNET_SEED", "0")))
    done: dict[str, int] = {}
    for _ in range(KILLS):
        running = begin(work, images, target)
        request.addfinalizer(running.kill)
        least, until = len(done) + moments.randint(0, 2), time.monotonic() + 60
        while len(done_in(target)) < min(least, 6) and running.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.3))
        workers = children(running.pid)
        running.kill()
        running.wait(60)
        until = time.monotonic() + 60
        while any(map(is_alive, workers)):  # nobody works on for a batch that is gone
            assert time.monotonic() < until
            time.sleep(0.05)
        assert labels_in(target).items() <= expected.items()
        now = done_in(target)
        assert done.items() <= now.items()
        done = now
    assert begin(work, images, target).wait(200) == 0
    assert labels_in(target) == expected
    assert done.items() <= done_in(target).items()
    assert len(done_in(target)) == 6
    assert not [path for path in target.iterdir() if path.is_dir()]


@linux
def test_a_lost_machine_of_a_cluster_loses_no_case(
    segmenter: Segmenter, work: BatchSettings, make_images: MakeImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray", reason="ray (the extra ray) is not installed")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # on a machine that has other work they would never start
    images, target = make_images(*[(14, 16, 9)] * 6), tmp_path / "out"
    assert not [error for _, error in predict(segmenter, plan_jobs(images, tmp_path / "expected", 1)) if error]
    settings = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500}
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": settings}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    run, tried, lost = RayWorker.run, list[str](), list[int]()

    def run_and_lose(self: Any, item: BatchItem) -> ItemResult:
        tried.append(item.case)
        if item.case == "case01" and not lost:
            lost.append(self.pid)
            os.kill(self.pid, signal.SIGSTOP)  # so that it cannot be done before
            parent = int(Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
            (node,) = [node for node in nodes if node.all_processes["raylet"][0].process.pid == parent]
            threading.Timer(0.2, cluster.remove_node, (node, False)).start()
        return run(self, item)

    monkeypatch.setattr(RayWorker, "run", run_and_lose)
    try:
        records = list(open_batch(str(images), str(target), work, 1, engine="ray", address=cluster.address)[0])
    finally:
        ray.shutdown()
        cluster.shutdown()
        for pid in lost:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert attempts(records) == {f"case{n:02d}": ("done", 1 + (n == 1)) for n in range(6)}
    assert sorted(tried) == sorted([*(f"case{n:02d}" for n in range(6)), "case01"])
    assert labels_in(target) == labels_in(tmp_path / "expected")
    with (target / "summary.csv").open(newline="") as stream:
        rows = {row["case"]: (row["state"], int(row["attempts"])) for row in csv.DictReader(stream)}
    assert rows == attempts(records)
