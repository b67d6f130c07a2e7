"""Records of a batch's cases, and the tables that they are written to."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TextIO

import fsspec

from s2vnet.batch.cases import get_text, is_url, join_location, put_text
from s2vnet.utils.atomic_write import atomic_write
from s2vnet.utils.file_names import printable

SUMMARY, VOLUMES = "summary.csv", "volumes.csv"
DONE_EARLIER, LABELS_EXIST = "done in an earlier run", "its labels exist"
"""Reasons for skipping a case."""
UPLOAD_S = 60.0
"""Interval at which the summary of a target in a store is uploaded."""
_COLUMNS = ("case", "state", "reason", "seconds", "attempts", "worker", "memory_mb", "notes", "volumes")


@dataclass(frozen=True)
class CaseRecord:
    """Outcome of a case."""

    case: str
    state: Literal["done", "skipped", "failed"]
    reason: str = ""
    """Why it was skipped or failed."""
    seconds: float = 0.0
    """Seconds of the last attempt, including fetching and writing."""
    attempts: int = 0
    worker: int = 0
    """Number of the worker of the last attempt; a replaced worker has a new number."""
    memory_mb: float | None = None
    """Peak memory of the worker's process during the attempt, MiB."""
    notes: tuple[str, ...] = ()
    """What a user should know of the image: of its header, and how it differs from the training data."""
    volumes: Mapping[str, float] = field(default_factory=dict)
    """ml by class name, if requested."""

    def __post_init__(self) -> None:
        for name in ("case", "reason"):  # file names need not be text
            object.__setattr__(self, name, printable(getattr(self, name)))
        object.__setattr__(self, "notes", tuple(map(printable, self.notes)))

    def to_row(self) -> tuple[object, ...]:
        """Row of the summary."""
        memory = "" if self.memory_mb is None else f"{self.memory_mb:.0f}"
        seconds, notes = f"{self.seconds:.3f}", "; ".join(self.notes)
        row = (self.case, self.state, self.reason, seconds, self.attempts, self.worker, memory, notes)
        return (*row, json.dumps(dict(self.volumes)) if self.volumes else "")

    @classmethod
    def from_row(cls, row: Mapping[str, str]) -> CaseRecord:
        """Record of a summary's row. Raises ValueError, TypeError or KeyError for an incompletely written row."""
        state = row["state"]
        if state not in ("done", "skipped", "failed"):
            raise ValueError(state)
        return cls(
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


def read_done(target: str) -> dict[str, CaseRecord]:
    """Records of cases that a target's summary lists as done, by case; incomplete rows are ignored."""
    records = {}
    for row in csv.DictReader(io.StringIO(get_text(join_location(target, SUMMARY)) or "")):
        with suppress(ValueError, TypeError, KeyError):
            record = CaseRecord.from_row(row)
            if record.state == "done" or record.reason == DONE_EARLIER:
                records[record.case] = record
    return records


class Summary:
    """Tables of a batch: a row is appended as each case is finished, and the tables are sorted at the end."""

    def __init__(self, target: str, cases: Sequence[str], known: Sequence[CaseRecord]) -> None:
        """Write records of earlier runs first, so that they are not lost if this run is killed."""
        self._target, self._cases = target, cases
        self._records = {record.case: record for record in known}
        self._write_csv()
        self._uploaded = time.monotonic()
        local = None if is_url(target) else Path(target, SUMMARY)
        self.journal: TextIO = (
            io.StringIO() if local is None else local.open("a", encoding="utf-8", errors="backslashreplace", newline="")
        )

    def add(self, record: CaseRecord) -> None:
        """Append a record."""
        self._records[record.case] = record
        if not is_url(self._target):
            csv.writer(self.journal).writerow(record.to_row())
            self.journal.flush()
        elif time.monotonic() - self._uploaded > UPLOAD_S:
            self._uploaded = time.monotonic()
            self._write_csv()

    def finish(self) -> None:
        """Write all tables."""
        records = self._write_csv()
        if find_spec("pyarrow") is not None:
            _write_parquet(join_location(self._target, "summary.parquet"), records)
        measured = [record for record in records if record.volumes]
        if measured:
            names = list(measured[0].volumes)
            head = ["case", *(f"{name} (ml)" for name in names)]
            body = [[record.case, *(f"{record.volumes[name]:.4f}" for name in names)] for record in measured]
            write_text(self._target, VOLUMES, _to_csv([head, *body]))

    def _write_csv(self) -> list[CaseRecord]:
        records = [self._records[case] for case in self._cases if case in self._records]
        write_text(self._target, SUMMARY, _to_csv([_COLUMNS, *(record.to_row() for record in records)]))
        return records


@contextmanager
def open_summary(target: str, cases: Sequence[str], known: Sequence[CaseRecord]) -> Iterator[Summary]:
    """Open a summary, and write its tables at the end.

    Args:
        target: folder or URL of the labels.
        cases: names in the order of the tables.
        known: records of earlier runs.
    """
    summary = Summary(target, cases, known)
    try:
        yield summary
    finally:
        summary.journal.close()
        summary.finish()


def write_text(target: str, name: str, text: str) -> None:
    """Write a small file to a folder or URL."""
    if is_url(target):
        put_text(join_location(target, name), text)
        return
    with atomic_write(Path(target, name)) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def _to_csv(rows: Sequence[Sequence[object]]) -> str:
    stream = io.StringIO()
    csv.writer(stream).writerows(rows)
    return stream.getvalue()


def _write_parquet(location: str, records: Sequence[CaseRecord]) -> None:
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
    if is_url(location):
        with fsspec.open(location, "wb") as stream:
            parquet.write_table(table, stream)
        return
    with atomic_write(Path(location)) as temporary:
        parquet.write_table(table, temporary)
