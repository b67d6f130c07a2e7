"""Workers of a batch: local processes, or actors of a Ray cluster. Each loads the model once.

A worker segments one image at a time. If its process crashes or is killed, no other worker is affected.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import torch

from s2vnet.batch.archive_series import ResultsExist
from s2vnet.batch.cases import BatchItem, TransientError, local_files
from s2vnet.batch.jobs import ExtraOutputs, Job, predict
from s2vnet.data.case_files import CaseFiles, find_channel_files
from s2vnet.errors import InputError, OutOfMemory, S2VNetError, unexpected
from s2vnet.inference.model_set import ModelSet
from s2vnet.inference.segmentation import volumes_ml
from s2vnet.io.files import read_labels
from s2vnet.utils.extras import require_extra
from s2vnet.utils.memory import memory_errors, peak_memory_mb, release_large_blocks, reset_peak_memory

_OUT_OF_MEMORY_KILL = "killed by signal 9, as the system does where memory is short"
_OOM_SCORE = 500
"""Added to a worker's score for being killed when memory runs out: https://docs.kernel.org/filesystems/proc.html."""


@dataclass(frozen=True)
class BatchSettings:
    """Models and options, the same for every image."""

    models: tuple[str, ...]
    device: str = "auto"
    extras: ExtraOutputs = field(default_factory=ExtraOutputs)
    classes: tuple[int, ...] | None = None
    """Label values to keep; others become background."""
    fill_nonfinite: float | None = None
    threads: int = 1
    """Torch threads of each worker."""
    runtime: str = "auto"
    """One of :data:`s2vnet.inference.backends.RUNTIMES`."""
    max_memory: int | None = None
    """Largest memory of each worker in bytes."""
    any_modality: bool = False
    """Segment images whose modality contradicts the model."""


@dataclass(frozen=True)
class ItemResult:
    """Result of a worker for one image."""

    memory_mb: float | None
    """Peak memory of its process during the segmentation, MiB; None where the system does not report it."""
    volumes: dict[str, float]
    """ml by class name, if requested."""
    notes: tuple[str, ...]
    """What a user should know of the image, see :class:`~s2vnet.batch.records.CaseRecord`."""


class WorkerLost(Exception):
    """A worker has ended; the message states how."""


class Worker(Protocol):
    """Interface of a worker, which segments one image at a time."""

    def ready(self) -> None:
        """Wait until the model is loaded. Raises as :meth:`run`."""

    def run(self, item: BatchItem) -> ItemResult:
        """Segment an image and write its labels.

        Raises:
            S2VNetError: the image or the target is at fault.
            OutOfMemory: memory ran out; the worker should be replaced.
            ResultsExist: nothing is to be done.
            TransientError: another fault, of a store or unexpected.
            WorkerLost: the worker must be replaced.
        """

    def stop(self) -> None:
        """Stop the worker at once; calls of other threads that wait for it raise WorkerLost."""


class ModelRunner:
    """A loaded model that segments items, within a worker's process."""

    def __init__(self, settings: BatchSettings) -> None:
        torch.set_num_threads(settings.threads)
        self._settings = settings
        if settings.max_memory is not None:
            release_large_blocks()
        with memory_errors():
            self._models = ModelSet.from_pretrained(
                *settings.models,
                device=settings.device,
                runtime=settings.runtime,
                any_modality=settings.any_modality,
            )

    def segment(self, item: BatchItem) -> ItemResult:
        """Segment an item with local files; raises as :meth:`Worker.run`."""
        reset_peak_memory()
        notes: list[str] = []
        if not item.labels_exist:
            self._write(item, notes)
        volumes = {}
        if self._settings.extras.volumes:
            classes = self._settings.classes
            kept = {k: n for k, n in self._models.only.class_names.items() if classes is None or k in classes}
            with memory_errors():
                volumes = volumes_ml(read_labels(item.output), kept)
        return ItemResult(peak_memory_mb(), volumes, tuple(notes))

    def _write(self, item: BatchItem, notes: list[str]) -> None:
        images = find_channel_files(Path(item.images[0]), self._models.channels) if len(item.images) == 1 else None
        case = CaseFiles(item.case, images or tuple(map(Path, item.images)))
        finished = predict(
            self._models,
            [Job(case, Path(item.output), dicom_outputs=tuple(map(Path, item.dicom_files)))],
            extras=replace(self._settings.extras, volumes=False),
            classes=self._settings.classes,
            fill_nonfinite=self._settings.fill_nonfinite,
            max_memory=self._settings.max_memory,
            note=lambda name, text: notes.append(text),
        )
        for _, error in finished:
            if error is not None:
                raise error


class ProcessWorker:
    """Worker in a local process. The calling process, which outlives it, fetches and stores the files."""

    def __init__(self, settings: BatchSettings) -> None:
        """Start the process."""
        context = get_context("spawn")
        self._connection, remote = context.Pipe()
        self._process = context.Process(target=_serve, args=(settings, remote), daemon=True)
        self._process.start()
        remote.close()  # otherwise reading would not fail when the process ends

    def ready(self) -> None:
        """See :meth:`Worker.ready`."""
        self._receive()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid or 0

    def run(self, item: BatchItem) -> ItemResult:
        """See :meth:`Worker.run`."""
        with local_files(item) as local:
            try:
                self._connection.send(local)
            except OSError as error:
                raise self._lost() from error
            result: ItemResult = self._receive()
            return result

    def stop(self) -> None:
        """See :meth:`Worker.stop`."""
        self._process.kill()

    def _receive(self) -> Any:
        try:
            kind, content = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._lost() from error
        return _unpack(kind, content)

    def _lost(self) -> WorkerLost:
        self._process.join()
        code = self._process.exitcode or 0
        how = f"ended with code {code}" if code >= 0 else f"killed by signal {-code}"
        return WorkerLost(f"its worker was {_OUT_OF_MEMORY_KILL}" if code == -9 else f"its worker was {how}")


def _serve(settings: BatchSettings, connection: Connection) -> None:
    """Serve requests until the other side closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal interrupts all; the batch stops its workers itself
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _raise_oom_score()
    try:
        runner = ModelRunner(settings)
    except S2VNetError as error:
        connection.send(_pack_error(error))
        return
    with suppress(EOFError, OSError):
        connection.send(("ready", None))
        while True:
            item = connection.recv()
            connection.send(_pack(runner.segment, item))


def _pack(segment: Callable[[BatchItem], ItemResult], item: BatchItem) -> tuple[str, object]:
    """Result or error of an item as (kind, content) for another process; :func:`_unpack` is the inverse."""
    try:
        return ("done", segment(item))
    except S2VNetError as error:
        return _pack_error(error)
    except ResultsExist as error:
        return ("exist", str(error))
    except Exception as error:
        return ("failed", str(error) if isinstance(error, TransientError) else unexpected(error))


def _pack_error(error: S2VNetError) -> tuple[str, object]:
    return ("short" if isinstance(error, OutOfMemory) else "refused", str(error))


def _unpack(kind: str, content: Any) -> Any:
    if kind == "short":
        raise OutOfMemory(content)
    if kind == "refused":
        raise InputError(content)
    if kind == "exist":
        raise ResultsExist(content)
    if kind == "failed":
        raise TransientError(content)
    return content


def _end_with_parent() -> None:
    """End this process with its parent, for a batch that was killed."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _raise_oom_score() -> None:
    """Let the system kill a worker, which is replaced, rather than other programs when memory runs out."""
    with suppress(OSError, ValueError):
        file = Path("/proc/self/oom_score_adj")
        file.write_text(str(min(1000, int(file.read_text()) + _OOM_SCORE)))


class RayWorker:
    """Worker that is an actor of a Ray cluster. The actor fetches and stores the files on its machine."""

    def __init__(self, settings: BatchSettings, cpus: float, gpus: float) -> None:
        """Request an actor; the cluster starts it once these resources are free."""
        import ray

        kind = ray.remote(_Actor).options(num_cpus=cpus, num_gpus=gpus, max_restarts=0, max_task_retries=0)
        self._ray, self._actor = ray, kind.remote(settings)
        self.pid = 0
        """Process id on its machine."""

    def ready(self) -> None:
        """See :meth:`Worker.ready`."""
        self.pid = self._get(self._actor.ready.remote())

    def run(self, item: BatchItem) -> ItemResult:
        """See :meth:`Worker.run`."""
        result: ItemResult = self._get(self._actor.run.remote(item))
        return result

    def stop(self) -> None:
        """See :meth:`Worker.stop`."""
        self._ray.kill(self._actor)

    def _get(self, reference: Any) -> Any:
        try:
            kind, content = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:  # its process, its machine, or the way to it
            raise WorkerLost(f"its worker was lost ({type(error).__name__})") from error
        return _unpack(kind, content)


class _Actor:
    def __init__(self, settings: BatchSettings) -> None:
        self._runner: ModelRunner | S2VNetError
        try:
            self._runner = ModelRunner(settings)
        except S2VNetError as error:
            self._runner = error

    def ready(self) -> tuple[str, object]:
        return _pack_error(self._runner) if isinstance(self._runner, S2VNetError) else ("ready", os.getpid())

    def run(self, item: BatchItem) -> tuple[str, object]:
        return _pack(self._segment, item)

    def _segment(self, item: BatchItem) -> ItemResult:
        assert isinstance(self._runner, ModelRunner)
        with local_files(item) as local:
            return self._runner.segment(local)


def connect_ray(address: str | None) -> int:
    """Connect to a Ray cluster, or start a local one without an address; return its number of CPUs.

    Raises:
        InputError: Ray is not installed, or no cluster answers at the address.
    """
    require_extra("ray", "--engine ray", "ray")
    import ray

    options: dict[str, Any] = {"include_dashboard": False} if address is None else {"address": address}
    try:
        ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level="ERROR", **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(f"{address}: no Ray cluster answers there ({type(error).__name__})") from error
    return int(ray.cluster_resources().get("CPU", 1))
