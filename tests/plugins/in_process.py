"""A batch's worker in the process of the tests: starting another takes seconds, and most of a batch is the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from s2vnet.batch.cases import BatchItem, local_files
from s2vnet.batch.workers import BatchSettings, ItemResult, ModelRunner, WorkerLost


class WorkerHere:
    """A worker in this process."""

    def __init__(self, work: BatchSettings) -> None:
        self._work, self._stopped = work, False

    def ready(self) -> None:
        self._bench = ModelRunner(self._work)

    def run(self, item: BatchItem) -> ItemResult:
        if self._stopped:
            raise WorkerLost("its worker was stopped")
        with local_files(item) as local:
            return self._bench.segment(local)

    def stop(self) -> None:
        self._stopped = True


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Batches have their workers in this process."""
    threads = torch.get_num_threads()
    monkeypatch.setattr("s2vnet.batch.runner.ProcessWorker", WorkerHere)
    yield
    torch.set_num_threads(threads)
