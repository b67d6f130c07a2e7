"""Many images by several workers: each done once, whatever dies meanwhile; a batch that is begun anew goes on.

The target gets the labels, ``summary.csv`` (a row per case, written as cases finish; ``summary.parquet`` too where
pyarrow is installed), ``batch.json`` (what was done with which model) and, if asked for, ``volumes.csv``.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Literal, TextIO

import filelock
import fsspec

from s2vnet._version import __version__
from s2vnet.batch.cases import (
    BatchItem,
    existing_outputs,
    get_text,
    is_url,
    join_location,
    list_items,
    put_text,
    strip_file_scheme,
)
from s2vnet.batch.workers import (
    BatchSettings,
    ProcessWorker,
    RayWorker,
    Worker,
    WorkerLost,
    connect_ray,
    describe_error,
)
from s2vnet.errors import InputError, OutOfMemory, S2VNetError
from s2vnet.inference.segmenter import find_model
from s2vnet.model.checkpoint import DESCRIPTION
from s2vnet.utils.atomic_write import atomic_write, remove_unfinished, require_writable
from s2vnet.utils.cpu import available_cores
from s2vnet.utils.folders import make_folder

ATTEMPTS = 2
"""How often a case is tried whose worker dies, or that fails by no fault of the image."""
MAX_STARTS = 3
"""How often in a row a worker may die before it has begun; then its place stays empty."""
RESTART_DELAY_S = 1.0
"""Before a worker is started again, so that memory comes back."""
DONE_EARLIER, LABELS_EXIST = "done in an earlier run", "its labels exist"
"""Why a case is skipped."""
SUMMARY, SETTINGS, VOLUMES, LOCK = "summary.csv", "batch.json", "volumes.csv", ".s2vnet-lock"
UPLOAD_S = 60.0
"""How often the summary of a target in a store is written there."""
_COLUMNS = ("case", "state", "reason", "seconds", "attempts", "worker", "memory_mb", "notes", "volumes")


@dataclass(frozen=True)
class Record:
    """What became of a case."""

    case: str
    state: Literal["done", "skipped", "failed"]
    reason: str = ""
    """Why it was skipped or failed."""
    seconds: float = 0.0
    """Of the last attempt, with fetching and writing."""
    attempts: int = 0
    worker: int = 0
    """Number of the worker that had it last; one that replaces another has a new number."""
    memory_mb: float | None = None
    """The most that the worker's process held meanwhile."""
    notes: tuple[str, ...] = ()
    """In what the image lies outside of what the model was trained on."""
    volumes: Mapping[str, float] = field(default_factory=dict)
    """ml by class name, if asked for."""


def open_batch(
    source: str,
    target: str,
    work: BatchSettings,
    channels: int,
    *,
    workers: int | None = None,
    engine: str = "local",
    address: str | None = None,
    cpus: int | None = None,
    gpus: float = 0.0,
    attempts: int = ATTEMPTS,
    skip_existing: bool = False,
) -> tuple[Iterator[Record], int]:
    """A batch of a source's images (see :func:`s2vnet.batch.cases.list_items`), and how many they are.

    Args:
        source: folder, list or URL.
        target: folder or URL.
        work: what to do; its threads are chosen here.
        channels: of the model.
        workers: how many; one if not given, and as many as a cluster has room for.
        engine: ``local`` or ``ray``.
        address: of the cluster.
        cpus: of each worker; local ones share the machine's if not given, a cluster's have one.
        gpus: of each worker of a cluster.
        attempts: see :func:`run_batch`, as `skip_existing`.

    Raises:
        InputError: as list_items, :func:`run_batch` or :func:`s2vnet.batch.workers.connect_ray`; no such engine.
    """
    if engine not in ("local", "ray"):
        raise InputError(f"no engine {engine!r}; choose local or ray")
    source, target = strip_file_scheme(source), strip_file_scheme(target)
    items = list_items(source, target, channels)
    if engine == "ray":
        room = connect_ray(address)
        work = dataclasses.replace(work, threads=cpus or 1)
        count = workers or max(1, room // work.threads)
        if not is_url(target):
            items = [dataclasses.replace(item, output=str(Path(item.output).absolute())) for item in items]
        start: Callable[[], Worker] = partial(RayWorker, work, work.threads, gpus)
    else:
        count = workers or 1
        work = dataclasses.replace(work, threads=cpus or max(1, available_cores() // count))
        start = partial(ProcessWorker, work)
    records = run_batch(items, target, work, start, workers=count, attempts=attempts, skip_existing=skip_existing)
    return records, len(items)


def run_batch(
    items: Sequence[BatchItem],
    target: str,
    work: BatchSettings,
    start: Callable[[], Worker],
    *,
    workers: int,
    attempts: int = ATTEMPTS,
    skip_existing: bool = False,
) -> Iterator[Record]:
    """Segment all items; yields a record of each as it is finished, those first that need no work.

    A case is skipped that an earlier run with the same models and settings has done, and with `skip_existing` any
    whose labels exist. A failed one is tried again by a later run.

    Args:
        items: from :func:`s2vnet.batch.cases.list_items`.
        target: folder or URL of the labels.
        work: as `start` has it.
        start: begins a worker.
        workers: how many at a time.
        attempts: see :data:`ATTEMPTS`.
        skip_existing: leave labels as they are that somebody else may have made.

    Raises:
        InputError: the target cannot be written, or another batch is writing there.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before a worker loads torch
    with _exclusive_target(target), ExitStack() as stack:
        settings = _settings(work)
        earlier = _earlier(target, settings)
        todo, skipped = _to_do(items, target, earlier, skip_existing, work.extras.volumes)
        summary = stack.enter_context(_summary(target, [item.case for item in items], skipped))
        _write(target, SETTINGS, json.dumps(settings, indent=2) + "\n")  # vouches for the rows of the summary
        yield from skipped
        pool = _WorkerPool(start, min(workers, len(todo)), attempts)
        stack.callback(pool.stop)
        for record in pool.run(todo):
            summary.add(record)
            yield record


def _to_do(
    items: Sequence[BatchItem], target: str, earlier: Mapping[str, Record], skip_existing: bool, volumes: bool
) -> tuple[list[BatchItem], list[Record]]:
    there = existing_outputs(items, target) if earlier or skip_existing else set()
    todo, skipped = [], []
    for item in items:
        if item.output in there and item.case in earlier:
            skipped.append(dataclasses.replace(earlier[item.case], state="skipped", reason=DONE_EARLIER))
        elif item.output in there and skip_existing and not volumes:
            skipped.append(Record(item.case, "skipped", LABELS_EXIST))
        else:
            todo.append(dataclasses.replace(item, written=skip_existing and item.output in there))
    return todo, skipped


class _WorkerPool:
    """Threads, each of which minds one worker: a lost worker is replaced, its case goes to the end of the queue.

    A thread whose worker is not ready holds no case: a cluster that has lost machines may have no place for it.
    """

    def __init__(self, start: Callable[[], Worker], size: int, attempts: int) -> None:
        self._start, self._attempts = start, attempts
        self._waiting: SimpleQueue[tuple[BatchItem, int] | None] = SimpleQueue()
        self._finished: SimpleQueue[Record | str] = SimpleQueue()
        self._workers: dict[int, Worker] = {}
        self._starting: list[Worker] = []
        self._number = 0
        self._lock = threading.Lock()
        self._stopped = False
        self._threads = [threading.Thread(target=self._worker_loop, daemon=True) for _ in range(size)]

    def run(self, items: Sequence[BatchItem]) -> Iterator[Record]:
        """Records as they come; what nobody is left to do is failed."""
        for item in items:
            self._waiting.put((item, 1))
        for thread in self._threads:
            thread.start()
        minded, open_items = len(self._threads), len(items)
        while open_items:
            found = self._finished.get()
            if isinstance(found, Record):
                open_items -= 1
                yield found
                continue
            minded -= 1
            if not minded:
                with suppress(Empty):
                    while (entry := self._waiting.get_nowait()) is not None:
                        yield Record(entry[0].case, "failed", found, attempts=entry[1] - 1)
                return

    def stop(self) -> None:
        """End all workers, idle or not."""
        with self._lock:
            self._stopped = True
            workers = [*self._workers.values(), *self._starting]
        for worker in workers:
            worker.stop()
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            if thread.is_alive():
                thread.join(10)

    def _worker_loop(self) -> None:
        try:
            number = self._start_worker()
            while (entry := self._waiting.get()) is not None and not self._stopped:
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
            known = isinstance(error, S2VNetError | WorkerLost)
            self._finished.put(f"no worker could be started: {error if known else describe_error(error)}")

    def _segment(self, number: int, item: BatchItem, attempt: int) -> Record | None:
        """What became of a case; None where it is to be tried again."""
        try:
            done = self._workers[number].run(item)
        except Exception as error:
            lost = isinstance(error, WorkerLost | OutOfMemory)
            if lost:
                self._stop_worker(number)
            if isinstance(error, S2VNetError) and not lost:
                return Record(item.case, "failed", str(error))
            if attempt < self._attempts:
                self._waiting.put((item, attempt + 1))
                return None
            reason = str(error) if lost else describe_error(error)
            return Record(item.case, "failed", f"{reason}, in attempt {attempt} of {self._attempts}")
        return Record(
            item.case,
            "skipped" if item.written else "done",
            LABELS_EXIST if item.written else "",
            memory_mb=done.memory_mb,
            notes=done.notes,
            volumes=done.volumes,
        )

    def _wait_for_case(self) -> None:
        """Until a case waits, which stays where it is: nobody loads a model for nothing."""
        if self._waiting.empty():
            self._waiting.put(self._waiting.get())

    def _start_worker(self) -> int:
        """Number of a new worker that is ready."""
        for left in reversed(range(MAX_STARTS)):
            try:
                worker = self._launch()
                break
            except (WorkerLost, OutOfMemory):  # memory of one that was stopped may not be back yet
                if not left or self._stopped:
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
        with self._lock, suppress(Exception):  # whatever becomes of it, its case goes on
            self._workers.pop(number).stop()


class _Summary:
    """Records of a batch: a row in the journal as each is finished, sorted tables at the end."""

    def __init__(self, target: str, cases: Sequence[str], known: Sequence[Record]) -> None:
        """Begin with what is known of earlier runs, so that it is not lost if this one is killed."""
        self._target, self._cases = target, cases
        self._records = {record.case: record for record in known}
        self._write_csv()
        self._uploaded = time.monotonic()
        local = None if is_url(target) else Path(target, SUMMARY)
        self.journal: TextIO = io.StringIO() if local is None else local.open("a", encoding="utf-8", newline="")

    def add(self, record: Record) -> None:
        """One more."""
        self._records[record.case] = record
        if not is_url(self._target):
            csv.writer(self.journal).writerow(_row(record))
            self.journal.flush()
        elif time.monotonic() - self._uploaded > UPLOAD_S:
            self._uploaded = time.monotonic()
            self._write_csv()

    def finish(self) -> None:
        """Write the tables."""
        records = self._write_csv()
        if find_spec("pyarrow") is not None:
            _write_parquet(join_location(self._target, "summary.parquet"), records)
        measured = [record for record in records if record.volumes]
        if measured:
            names = list(measured[0].volumes)
            head = ["case", *(f"{name} (ml)" for name in names)]
            body = [[record.case, *(f"{record.volumes[name]:.4f}" for name in names)] for record in measured]
            _write(self._target, VOLUMES, _csv([head, *body]))

    def _write_csv(self) -> list[Record]:
        records = [self._records[case] for case in self._cases if case in self._records]
        _write(self._target, SUMMARY, _csv([_COLUMNS, *map(_row, records)]))
        return records


@contextmanager
def _summary(target: str, cases: Sequence[str], known: Sequence[Record]) -> Iterator[_Summary]:
    summary = _Summary(target, cases, known)
    try:
        yield summary
    finally:
        summary.journal.close()
        summary.finish()


def _row(record: Record) -> tuple[object, ...]:
    memory = "" if record.memory_mb is None else f"{record.memory_mb:.0f}"
    seconds, notes = f"{record.seconds:.3f}", "; ".join(record.notes)
    told = (record.case, record.state, record.reason, seconds, record.attempts, record.worker, memory, notes)
    return (*told, json.dumps(dict(record.volumes)) if record.volumes else "")


def _record(row: Mapping[str, str]) -> Record:
    """The record of a row; raises ValueError, TypeError or KeyError where a killed run left half of one."""
    state = row["state"]
    if state not in ("done", "skipped", "failed"):
        raise ValueError(state)
    return Record(
        row["case"],
        state,  # type: ignore[arg-type]
        row["reason"],
        float(row["seconds"]),
        int(row["attempts"]),
        int(row["worker"]),
        float(row["memory_mb"]) if row["memory_mb"] else None,
        tuple(row["notes"].split("; ")) if row["notes"] else (),
        json.loads(row["volumes"] or "{}"),
    )


def _settings(work: BatchSettings) -> dict[str, object]:
    """What decides how labels come out."""
    models = [json.loads((find_model(name) / DESCRIPTION).read_text())["sha256"] for name in work.models]
    classes = None if work.classes is None else list(work.classes)
    asked = {"classes": classes, "fill_nonfinite": work.fill_nonfinite, "extras": dataclasses.asdict(work.extras)}
    return {"s2vnet": __version__, "models": models, **asked}


def _earlier(target: str, settings: Mapping[str, object]) -> dict[str, Record]:
    """What an earlier run with the same settings has done, by case."""
    try:
        same = json.loads(get_text(join_location(target, SETTINGS)) or "null") == settings
    except ValueError:
        same = False
    if not same:
        return {}
    found = {}
    for row in csv.DictReader(io.StringIO(get_text(join_location(target, SUMMARY)) or "")):
        with suppress(ValueError, TypeError, KeyError):
            record = _record(row)
            if record.state == "done" or record.reason == DONE_EARLIER:
                found[record.case] = record
    return found


@contextmanager
def _exclusive_target(target: str) -> Iterator[None]:
    """The target is there, can be written, and no other batch writes to it; what a killed one left is removed."""
    if is_url(target):
        yield
        return
    folder = Path(target)
    make_folder(folder)
    require_writable(folder)
    try:
        with filelock.FileLock(folder / LOCK, timeout=0):
            remove_unfinished(folder)
            try:
                yield
            finally:
                remove_unfinished(folder)
    except filelock.Timeout as error:
        raise InputError(f"{folder}: another batch writes there; wait for it, or choose another folder") from error


def _write(target: str, name: str, text: str) -> None:
    if is_url(target):
        put_text(join_location(target, name), text)
        return
    with atomic_write(Path(target, name)) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def _csv(rows: Sequence[Sequence[object]]) -> str:
    stream = io.StringIO()
    csv.writer(stream).writerows(rows)
    return stream.getvalue()


def _write_parquet(place: str, records: Sequence[Record]) -> None:
    import pyarrow
    from pyarrow import parquet

    kinds = (pyarrow.string(),) * 3 + (pyarrow.float64(), pyarrow.int64(), pyarrow.int64(), pyarrow.float64())
    fields = [*zip(_COLUMNS[:-2], kinds, strict=True), ("notes", pyarrow.string())]
    columns = [[getattr(record, name) for record in records] for name in _COLUMNS[:-2]]
    columns.append(["; ".join(record.notes) for record in records])
    for name in next((list(record.volumes) for record in records if record.volumes), []):
        fields.append((f"{name} (ml)", pyarrow.float64()))
        columns.append([record.volumes.get(name) for record in records])
    arrays = [pyarrow.array(column, kind) for column, (_, kind) in zip(columns, fields, strict=True)]
    table = pyarrow.Table.from_arrays(arrays, schema=pyarrow.schema(fields))
    if is_url(place):
        with fsspec.open(place, "wb") as stream:
            parquet.write_table(table, stream)
        return
    with atomic_write(Path(place)) as temporary:
        parquet.write_table(table, temporary)
