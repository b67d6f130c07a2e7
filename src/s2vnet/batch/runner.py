"""Fault-tolerant, resumable batch runner: segments many images with several workers.

The target gets the labels, ``summary.csv`` (a row per case, written as cases finish; ``summary.parquet`` too where
pyarrow is installed), ``batch.json`` (models and settings) and, if requested, ``volumes.csv``. Run the same batch again
to resume it.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import filelock

from s2vnet._version import __version__
from s2vnet.batch.archive_series import ResultRequest, require_kinds
from s2vnet.batch.cases import (
    BatchItem,
    existing_outputs,
    get_text,
    is_url,
    join_location,
    list_items,
    strip_file_scheme,
)
from s2vnet.batch.records import DONE_EARLIER, LABELS_EXIST, CaseRecord, open_summary, read_done, write_text
from s2vnet.batch.worker_pool import WorkerPool
from s2vnet.batch.workers import BatchSettings, ProcessWorker, RayWorker, Worker, connect_ray
from s2vnet.errors import InputError
from s2vnet.inference.segmenter import find_model
from s2vnet.io.dicomweb.address import is_address
from s2vnet.io.dicomweb.queries import ANY, Query
from s2vnet.model.checkpoint import DESCRIPTION
from s2vnet.utils.atomic_write import remove_unfinished, require_writable
from s2vnet.utils.cpu import available_cores
from s2vnet.utils.folders import make_folder
from s2vnet.utils.json_io import read_json

ATTEMPTS = 2
"""Number of attempts at a case whose worker is lost, or that fails for another reason than its image."""
SETTINGS, LOCK = "batch.json", ".s2vnet-lock"


def open_batch(
    source: str,
    target: str,
    settings: BatchSettings,
    channels: int,
    *,
    workers: int | None = None,
    engine: str = "local",
    address: str | None = None,
    cpus: int | None = None,
    gpus: float = 0.0,
    attempts: int = ATTEMPTS,
    skip_existing: bool = False,
    query: Query = ANY,
    store: Sequence[str] = (),
) -> tuple[Iterator[CaseRecord], int]:
    """Records of a batch (:func:`run_batch`) as they are finished, and the number of its cases.

    Args:
        source: folder, list or URL (:func:`s2vnet.batch.cases.list_items`).
        target: folder or URL.
        settings: models and options; ``threads`` is replaced.
        channels: number of image channels of the model.
        workers: number of workers; by default one, or as many as a cluster has CPUs for.
        engine: ``local`` or ``ray``.
        address: address of the cluster.
        cpus: CPUs per worker; by default local workers share those of the machine, and workers of a cluster have one.
        gpus: GPUs per worker of a cluster.
        attempts: as of :func:`run_batch`.
        skip_existing: as of :func:`run_batch`.
        query: conditions on the series of a DICOM archive.
        store: kinds of results (:data:`s2vnet.io.dicomweb.results.KINDS`) that the archive gets.

    Raises:
        InputError: unknown engine, a query or results without an archive, or as list_items, :func:`run_batch` or
            :func:`s2vnet.batch.workers.connect_ray`.
    """
    if engine not in ("local", "ray"):
        raise InputError(f"no engine {engine!r}; choose local or ray")
    source, target = strip_file_scheme(source), strip_file_scheme(target)
    if not is_address(source) and (store or query != ANY):
        raise InputError(f"{source}: not a DICOM archive, which --store and the options of a query need")
    if store and skip_existing:
        raise InputError("leave out --skip-existing: with --store, series are skipped whose results are in the archive")
    kinds = require_kinds(tuple(dict.fromkeys(store)))
    items = list_items(source, target, channels, query)
    if kinds:
        fingerprint = _fingerprint(settings)
        options = {name: fingerprint[name] for name in ("models", "classes", "fill_nonfinite")}
        items = [dataclasses.replace(item, results=ResultRequest(kinds, options)) for item in items]
    if engine == "ray":
        cluster_cpus = connect_ray(address)
        settings = dataclasses.replace(settings, threads=cpus or 1)
        count = workers or max(1, cluster_cpus // settings.threads)
        if not is_url(target):
            items = [dataclasses.replace(item, output=str(Path(item.output).absolute())) for item in items]
        start: Callable[[], Worker] = partial(RayWorker, settings, settings.threads, gpus)
    else:
        count = workers or 1
        settings = dataclasses.replace(settings, threads=cpus or max(1, available_cores() // count))
        start = partial(ProcessWorker, settings)
    records = run_batch(items, target, settings, start, workers=count, attempts=attempts, skip_existing=skip_existing)
    return records, len(items)


def run_batch(
    items: Sequence[BatchItem],
    target: str,
    settings: BatchSettings,
    start: Callable[[], Worker],
    *,
    workers: int,
    attempts: int = ATTEMPTS,
    skip_existing: bool = False,
) -> Iterator[CaseRecord]:
    """Segment all items; yield a record of each as it is finished, skipped ones first.

    Cases are skipped that an earlier run with the same models and settings has done, and with `skip_existing` those
    whose labels exist. Failed cases are tried again by a later run.

    Args:
        items: from :func:`s2vnet.batch.cases.list_items`.
        target: folder or URL of the labels.
        settings: settings of the workers.
        start: function that starts a worker.
        workers: number of workers.
        attempts: see :data:`ATTEMPTS`.
        skip_existing: keep existing labels of any origin.

    Raises:
        InputError: the target cannot be written, or another batch is writing there.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before a worker loads torch
    with _exclusive_target(target), ExitStack() as stack:
        fingerprint = _fingerprint(settings)
        earlier = read_done(target) if _has_fingerprint(target, fingerprint) else {}
        pending, skipped = _select(items, target, earlier, skip_existing, settings.extras.volumes)
        summary = stack.enter_context(open_summary(target, [item.case for item in items], skipped))
        # only after the summary, whose rows are valid for these settings
        write_text(target, SETTINGS, json.dumps(fingerprint, indent=2) + "\n")
        yield from skipped
        pool = WorkerPool(start, min(workers, len(pending)), attempts)
        stack.callback(pool.stop)
        for record in pool.run(pending):
            if record.state == "skipped" and record.case in earlier:
                record = dataclasses.replace(earlier[record.case], state="skipped", reason=DONE_EARLIER)
            summary.add(record)
            yield record


def _select(
    items: Sequence[BatchItem], target: str, earlier: Mapping[str, CaseRecord], skip_existing: bool, volumes: bool
) -> tuple[list[BatchItem], list[CaseRecord]]:
    """Items to process, and records of those to skip."""
    existing = existing_outputs(items, target) if earlier or skip_existing else set()
    pending, skipped = [], []
    for item in items:
        if item.results is not None:  # whether its archive has them is asked right before the work
            pending.append(item)
        elif item.output in existing and item.case in earlier:
            skipped.append(dataclasses.replace(earlier[item.case], state="skipped", reason=DONE_EARLIER))
        elif item.output in existing and skip_existing and not volumes:
            skipped.append(CaseRecord(item.case, "skipped", LABELS_EXIST))
        else:
            pending.append(dataclasses.replace(item, labels_exist=skip_existing and item.output in existing))
    return pending, skipped


def _fingerprint(settings: BatchSettings) -> dict[str, object]:
    """Everything that the labels depend on besides the images."""
    models = [read_json(find_model(name) / DESCRIPTION)["sha256"] for name in settings.models]
    return {
        "s2vnet": __version__,
        "models": models,
        "classes": None if settings.classes is None else list(settings.classes),
        "fill_nonfinite": settings.fill_nonfinite,
        "extras": dataclasses.asdict(settings.extras),
    }


def _has_fingerprint(target: str, fingerprint: Mapping[str, object]) -> bool:
    """Whether an earlier run into the target had the same models and settings."""
    try:
        return bool(json.loads(get_text(join_location(target, SETTINGS)) or "null") == fingerprint)
    except ValueError:
        return False


@contextmanager
def _exclusive_target(target: str) -> Iterator[None]:
    """Create a target folder and lock it against other batches; unfinished files of killed ones are removed."""
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
