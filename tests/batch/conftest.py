"""Settings, images and dying workers for the tests of batches."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from label_folders import write_images

from s2vnet.batch.cases import BatchItem
from s2vnet.batch.workers import BatchSettings, ItemResult, ProcessWorker, Worker, WorkerLost
from s2vnet.io.geometry import LabelMap, Volume

MakePhantom = Callable[..., tuple[Volume, LabelMap]]


@pytest.fixture
def work(model_folder: Path) -> BatchSettings:
    return BatchSettings((str(model_folder),), "cpu")


@pytest.fixture
def images(tmp_path: Path, make_phantom: MakePhantom) -> Path:
    """Folder of case00_0000.nii.gz to case03_0000.nii.gz."""
    return write_images(tmp_path / "images", make_phantom, 4)


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
