"""Who does a batch's work: a process here, or an actor of a Ray cluster. Each loads the model once.

Both take one image at a time. One that dies, by the system's hand or a library's fault, takes nothing else with it.
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

from s2vnet.batch.cases import BatchItem, local_files
from s2vnet.batch.jobs import ExtraOutputs, Job, predict
from s2vnet.data.dataset import CaseFiles, find_channel_files
from s2vnet.errors import InputError, OutOfMemory, S2VNetError
from s2vnet.inference.segmenter import Segmenter, volumes_ml
from s2vnet.io.files import read_labels
from s2vnet.utils.extras import require_extra
from s2vnet.utils.memory import memory_errors, peak_memory_mb, release_large_blocks, reset_peak_memory

_KILLED = "killed by signal 9, as the system does where memory is short"
_RATHER = 500
"""By how much rather than other processes a worker is killed: https://docs.kernel.org/filesystems/proc.html."""


@dataclass(frozen=True)
class BatchSettings:
    """What is done to every image."""

    models: tuple[str, ...]
    device: str = "auto"
    extras: ExtraOutputs = field(default_factory=ExtraOutputs)
    classes: tuple[int, ...] | None = None
    """Label values to keep; others become background."""
    fill_nonfinite: float | None = None
    threads: int = 1
    """Of torch, in each worker."""
    runtime: str = "torch"
    """What computes (:mod:`s2vnet.inference.backends`)."""
    max_memory: int | None = None
    """Bytes that each worker may hold."""


@dataclass(frozen=True)
class ItemResult:
    """What a worker tells of an image."""

    memory_mb: float | None
    """The most that its process held meanwhile; None where the system does not tell."""
    volumes: dict[str, float]
    """ml by class name, if asked for."""
    notes: tuple[str, ...]
    """In what the image lies outside of what the model was trained on."""


class WorkerLost(Exception):
    """A worker is no more; its text says how it ended."""


class Worker(Protocol):
    """Segments one image at a time."""

    def ready(self) -> None:
        """Wait until it has loaded the model. Raises as :meth:`run`."""

    def run(self, item: BatchItem) -> ItemResult:
        """Segment and write.

        Raises:
            S2VNetError: it is the image's fault, or the target's.
            OutOfMemory: memory was short; the worker is better replaced.
            WorkerLost: the worker is of no more use.
        """

    def stop(self) -> None:
        """End it at once; what another thread waits for then raises WorkerLost."""


class ModelRunner:
    """A loaded model in a process of its own, and what is done with it."""

    def __init__(self, work: BatchSettings) -> None:
        torch.set_num_threads(work.threads)
        self._work = work
        if work.max_memory is not None:
            release_large_blocks()
        with memory_errors():
            self._segmenter = Segmenter.from_pretrained(*work.models, device=work.device, runtime=work.runtime)

    def segment(self, item: BatchItem) -> ItemResult:
        """Segment an item whose files are here; as :meth:`Worker.run`."""
        reset_peak_memory()
        notes: list[str] = []
        if not item.written:
            self._write(item, notes)
        volumes = {}
        if self._work.extras.volumes:
            classes = self._work.classes
            kept = {k: n for k, n in self._segmenter.class_names.items() if classes is None or k in classes}
            with memory_errors():
                volumes = volumes_ml(read_labels(item.output), kept)
        return ItemResult(peak_memory_mb(), volumes, tuple(notes))

    def _write(self, item: BatchItem, notes: list[str]) -> None:
        images = find_channel_files(Path(item.images[0])) if len(item.images) == 1 else None
        case = CaseFiles(item.case, images or tuple(map(Path, item.images)))
        finished = predict(
            self._segmenter,
            [Job(case, Path(item.output))],
            extras=replace(self._work.extras, volumes=False),
            classes=self._work.classes,
            fill_nonfinite=self._work.fill_nonfinite,
            max_memory=self._work.max_memory,
            note=lambda name, text: notes.append(text),
        )
        for _, error in finished:
            if error is not None:
                raise error


class ProcessWorker:
    """A worker in a process of its own. Files are fetched and placed by this process, which outlives it."""

    def __init__(self, work: BatchSettings) -> None:
        """Start one."""
        context = get_context("spawn")
        self._connection, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(work, there), daemon=True)
        self._process.start()
        there.close()  # else its end would not be noticed

    def ready(self) -> None:
        """See :meth:`Worker.ready`."""
        self._answer()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid or 0

    def run(self, item: BatchItem) -> ItemResult:
        """See :meth:`Worker.run`."""
        with local_files(item) as local:
            try:
                self._connection.send(local)
            except OSError as error:
                raise self._death() from error
            done: ItemResult = self._answer()
            return done

    def stop(self) -> None:
        """See :meth:`Worker.stop`."""
        self._process.kill()

    def _answer(self) -> Any:
        try:
            kind, content = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._death() from error
        return _content(kind, content)

    def _death(self) -> WorkerLost:
        self._process.join()
        code = self._process.exitcode or 0
        how = f"ended with code {code}" if code >= 0 else f"killed by signal {-code}"
        return WorkerLost(f"its worker was {_KILLED}" if code == -9 else f"its worker was {how}")


def _serve(work: BatchSettings, connection: Connection) -> None:
    """Answer until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal interrupts all; the batch ends its workers itself
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _go_first()
    try:
        bench = ModelRunner(work)
    except S2VNetError as error:
        connection.send(_error_message(error))
        return
    with suppress(EOFError, OSError):
        connection.send(("ready", None))
        while True:
            item = connection.recv()
            connection.send(_outcome(bench.segment, item))


def _outcome(segment: Callable[[BatchItem], ItemResult], item: BatchItem) -> tuple[str, object]:
    """What came of an item, in a form that another process understands; :func:`_content` is the way back."""
    try:
        return ("done", segment(item))
    except S2VNetError as error:
        return _error_message(error)
    except Exception as error:
        return ("failed", describe_error(error))


def _error_message(error: S2VNetError) -> tuple[str, object]:
    return ("short" if isinstance(error, OutOfMemory) else "refused", str(error))


def _content(kind: str, content: Any) -> Any:
    if kind == "short":
        raise OutOfMemory(content)
    if kind == "refused":
        raise InputError(content)
    if kind == "failed":
        raise RuntimeError(content)
    return content


def _end_with_parent() -> None:
    """Nobody waits any more for what a worker does whose batch was killed."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _go_first() -> None:
    """Where memory runs out, the system is to take a worker, which can be replaced, not the batch or a stranger."""
    with suppress(OSError, ValueError):
        file = Path("/proc/self/oom_score_adj")
        file.write_text(str(min(1000, int(file.read_text()) + _RATHER)))


class RayWorker:
    """A worker that is an actor of a Ray cluster. Files are fetched and placed on its own machine."""

    def __init__(self, work: BatchSettings, cpus: float, gpus: float) -> None:
        """Ask for one; the cluster starts it when it has these resources free."""
        import ray

        kind = ray.remote(_Actor).options(num_cpus=cpus, num_gpus=gpus, max_restarts=0, max_task_retries=0)
        self._ray, self._actor = ray, kind.remote(work)
        self.pid = 0
        """Of its process, on its machine."""

    def ready(self) -> None:
        """See :meth:`Worker.ready`."""
        self.pid = self._get(self._actor.ready.remote())

    def run(self, item: BatchItem) -> ItemResult:
        """See :meth:`Worker.run`."""
        done: ItemResult = self._get(self._actor.run.remote(item))
        return done

    def stop(self) -> None:
        """See :meth:`Worker.stop`."""
        self._ray.kill(self._actor)

    def _get(self, reference: Any) -> Any:
        try:
            kind, content = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:  # its process, its machine, or the way to it
            raise WorkerLost(f"its worker was lost ({describe_error(error)})") from error
        return _content(kind, content)


class _Actor:
    def __init__(self, work: BatchSettings) -> None:
        self._bench: ModelRunner | S2VNetError
        try:
            self._bench = ModelRunner(work)
        except S2VNetError as error:
            self._bench = error

    def ready(self) -> tuple[str, object]:
        return _error_message(self._bench) if isinstance(self._bench, S2VNetError) else ("ready", os.getpid())

    def run(self, item: BatchItem) -> tuple[str, object]:
        return _outcome(self._segment, item)

    def _segment(self, item: BatchItem) -> ItemResult:
        assert isinstance(self._bench, ModelRunner)
        with local_files(item) as local:
            return self._bench.segment(local)


def connect_ray(address: str | None) -> int:
    """Join a Ray cluster, or start one here where no address is given; how many CPUs it has.

    Raises:
        InputError: Ray is not installed, or nothing answers at the address.
    """
    require_extra("ray", "--engine ray", "ray")
    import ray

    options: dict[str, Any] = {"include_dashboard": False} if address is None else {"address": address}
    try:
        ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level="ERROR", **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(f"{address}: no Ray cluster answers there ({describe_error(error)})") from error
    return int(ray.cluster_resources().get("CPU", 1))


def describe_error(error: Exception) -> str:
    """An unexpected error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}".removesuffix(": ")
