"""Pool of threads that each drive one worker; lost workers are replaced, and their cases are tried again."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue

from s2vnet.batch.archive_series import ResultsExist
from s2vnet.batch.cases import BatchItem, TransientError
from s2vnet.batch.records import LABELS_EXIST, CaseRecord
from s2vnet.batch.workers import Worker, WorkerLost
from s2vnet.errors import OutOfMemory, S2VNetError, unexpected

MAX_STARTS = 3
"""Failed starts of a worker in a row, after which its thread ends."""
RESTART_DELAY_S = 1.0
"""Delay before a worker is started again, in which the system may free memory."""


class WorkerPool:
    """Threads that each drive one worker. The case of a lost worker goes to the end of the queue.

    A thread takes a case only when its worker is ready: a cluster that has lost machines may never start it.
    """

    def __init__(self, start: Callable[[], Worker], size: int, attempts: int) -> None:
        """Create the threads.

        Args:
            start: function that starts a worker.
            size: number of workers.
            attempts: largest number of attempts at a case.
        """
        self._start, self._attempts = start, attempts
        self._queue: SimpleQueue[tuple[BatchItem, int] | None] = SimpleQueue()
        """Cases and the number of the attempt; None ends a thread."""
        self._finished: SimpleQueue[CaseRecord | str] = SimpleQueue()
        """Records, and messages of threads that have ended."""
        self._workers: dict[int, Worker] = {}
        self._starting: list[Worker] = []
        self._number = 0
        self._lock = threading.Lock()
        self._stopped = False
        self._threads = [threading.Thread(target=self._worker_loop, daemon=True) for _ in range(size)]

    def run(self, items: Sequence[BatchItem]) -> Iterator[CaseRecord]:
        """Yield records as cases are finished; when no worker is left, the remaining cases fail."""
        for item in items:
            self._queue.put((item, 1))
        for thread in self._threads:
            thread.start()
        running, unfinished = len(self._threads), len(items)
        while unfinished:
            message = self._finished.get()
            if isinstance(message, CaseRecord):
                unfinished -= 1
                yield message
                continue
            running -= 1
            if not running:
                with suppress(Empty):
                    while (entry := self._queue.get_nowait()) is not None:
                        yield CaseRecord(entry[0].case, "failed", message, attempts=entry[1] - 1)
                return

    def stop(self) -> None:
        """Stop all workers, including busy ones."""
        with self._lock:
            self._stopped = True
            workers = [*self._workers.values(), *self._starting]
        for worker in workers:
            worker.stop()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            if thread.is_alive():
                thread.join(10)

    def _worker_loop(self) -> None:
        try:
            number = self._start_worker()
            while (entry := self._queue.get()) is not None and not self._stopped:
                item, attempt = entry
                began = time.monotonic()
                record = self._segment(number, item, attempt)
                if record is not None:
                    seconds = time.monotonic() - began
                    self._finished.put(dataclasses.replace(record, seconds=seconds, attempts=attempt, worker=number))
                if number not in self._workers:
                    self._wait_for_case()
                    if self._stopped:
                        return
                    number = self._start_worker()
        except Exception as error:
            self._finished.put(f"no worker could be started: {_reason(error)}")

    def _segment(self, number: int, item: BatchItem, attempt: int) -> CaseRecord | None:
        """Record of a case; None where it is to be tried again."""
        try:
            result = self._workers[number].run(item)
        except ResultsExist as error:
            return CaseRecord(item.case, "skipped", str(error))
        except Exception as error:
            lost = isinstance(error, WorkerLost | OutOfMemory)
            if lost:
                self._stop_worker(number)
            if isinstance(error, S2VNetError) and not lost:
                return CaseRecord(item.case, "failed", str(error))
            if attempt < self._attempts:
                self._queue.put((item, attempt + 1))
                return None
            return CaseRecord(item.case, "failed", f"{_reason(error)}, in attempt {attempt} of {self._attempts}")
        return CaseRecord(
            item.case,
            "skipped" if item.labels_exist else "done",
            LABELS_EXIST if item.labels_exist else "",
            memory_mb=result.memory_mb,
            notes=result.notes,
            volumes=result.volumes,
        )

    def _wait_for_case(self) -> None:
        """Wait until a case is queued, so that no model is loaded unnecessarily; the case goes back to the queue."""
        if self._queue.empty():
            self._queue.put(self._queue.get())

    def _start_worker(self) -> int:
        """Start a worker, wait until it is ready, and return its number."""
        for retries in reversed(range(MAX_STARTS)):
            try:
                worker = self._launch()
                break
            except (WorkerLost, OutOfMemory):  # memory of a stopped worker may not be free yet
                if not retries or self._stopped:
                    raise
                time.sleep(RESTART_DELAY_S)
        with self._lock:
            self._number += 1
            self._workers[self._number] = worker
            if self._stopped:
                worker.stop()
            return self._number

    def _launch(self) -> Worker:
        worker = self._start()
        with self._lock:
            self._starting.append(worker)
            if self._stopped:
                worker.stop()
        try:
            worker.ready()
        except BaseException:
            worker.stop()
            raise
        finally:
            with self._lock:
                self._starting.remove(worker)
        return worker

    def _stop_worker(self, number: int) -> None:
        with self._lock, suppress(Exception):  # its case is tried again even if it cannot be stopped
            self._workers.pop(number).stop()


def _reason(error: Exception) -> str:
    """Message of an error whose message is this package's own, else its type and place: others may quote a header."""
    known = isinstance(error, S2VNetError | WorkerLost | TransientError)
    return str(error) if known else unexpected(error)
