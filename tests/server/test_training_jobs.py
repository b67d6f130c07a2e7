"""A training may outlive the server that started it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from s2vnet.inference.segmenter import Segmenter
from s2vnet.io.files import read_image, write_labels
from s2vnet.server.folder_lock import is_locked, lock_folder
from s2vnet.server.model_library import ModelLibrary
from s2vnet.server.settings import Settings
from s2vnet.server.training_dataset import LabelledScan
from s2vnet.server.training_jobs import MIN_CASES, RECORD, RUNNING, TrainingJob, TrainingJobs

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no flock")


@pytest.fixture
def orphan(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """Folder and process of a training whose server was killed: the lock is the process's alone."""
    folder = tmp_path / "state" / "training" / "20260101-000000-abcd"
    (folder / "run" / ".s2vnet-half").mkdir(parents=True)
    (folder / RECORD).write_text(json.dumps(asdict(TrainingJob("1", {}, {}, [], [], "2026-01-01", status=RUNNING))))
    lock = lock_folder(folder)
    assert lock is not None
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    with subprocess.Popen(command, pass_fds=(lock,), start_new_session=True) as process:
        os.write(lock, str(process.pid).encode())
        os.close(lock)
        yield folder, process
        process.kill()


def test_an_orphaned_training_runs_until_it_is_stopped(
    orphan: tuple[Path, subprocess.Popen[bytes]], serve: Callable[..., TestClient]
) -> None:
    folder, process = orphan
    client = serve()
    assert (folder / "run" / ".s2vnet-half").is_dir()  # it is still writing there
    assert client.get("/monailabel/train/?check_if_running=true").json()["status"] == "RUNNING"
    assert client.post("/monailabel/train/s2vnet", json={}).status_code == 429
    assert lock_folder(folder) is None
    assert client.delete("/monailabel/train/").json()["status"] == "STOPPED"
    assert process.wait(10) != 0
    assert client.get("/monailabel/train/?check_if_running=true").status_code == 404


def test_a_killed_orphan_is_stopped(
    orphan: tuple[Path, subprocess.Popen[bytes]], serve: Callable[..., TestClient]
) -> None:
    folder, process = orphan
    process.kill()
    process.wait(10)
    assert not is_locked(folder)
    assert serve().get("/monailabel/train/").json()["status"] == "STOPPED"


def test_closing_a_server_keeps_the_training_of_another(
    orphan: tuple[Path, subprocess.Popen[bytes]], serve: Callable[..., TestClient]
) -> None:
    _, process = orphan
    serve().app.state.monailabel.close()  # type: ignore[attr-defined]
    assert process.poll() is None


def test_jobs_are_ordered_by_start_whatever_the_clock_says(
    settings: Callable[..., Settings], segmenter: Segmenter, data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("lightning_fabric", reason="lightning-fabric (the extra train) is not installed")
    trainer, now = TrainingJobs(tmp_path / "training", "cpu"), time.time
    labels = tmp_path / "labels.nii.gz"
    write_labels(labels, segmenter.segment(read_image(data / "one.nii.gz")).labels())
    scans = [LabelledScan(data / "one.nii.gz", labels)] * MIN_CASES
    begun, model = [], ModelLibrary.of(segmenter, "no such model").first
    for epochs in (1, 2):
        begun.append(trainer.start({"max_epochs": epochs}, scans, model)["id"])
        trainer.close()
        monkeypatch.setattr(time, "time", lambda: now() - 10**8)
    assert [task["id"] for task in trainer.all()] == begun
