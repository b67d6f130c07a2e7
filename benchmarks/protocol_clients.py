"""A server under clients of nnInteractive's and MONAI Label's protocols that click at a fixed pace; see `serving`.

Each client works on one of a few different scans, with clicks of its own: nnInteractive's own client on objects of no
class, MONAI Label's requests on clicks of all classes. Measuring begins when all scans are open. Afterwards every
client's last result is compared with that of a local session with the same clicks.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import torch

from benchmarks.measures.environment import processor, provenance
from s2vnet.errors import InputError
from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.io.files import read_image, read_labels, write_image
from s2vnet.io.geometry import Geometry, Volume
from s2vnet.prompts import Entry, NewClass, Point, Voxel

INTERVAL_S = 5.0
"""Seconds between two clicks of a client; a later answer delays the next click."""
HEALTH_INTERVAL_S = 0.5
CLICKS_EACH = 5
"""Clicks on one object, or on one scan's classes, before a client begins anew."""
TIMEOUT_S = 600.0
SEED = 0
Labels = npt.NDArray[np.uint8]


def scan_variants(volume: Volume, slices: int, count: int) -> list[Volume]:
    """Different scans (C, I, J, K) of at most so many slices, cut from one and turned about its long axis."""
    variants = []
    depth = volume.data.shape[3]
    for n in range(count):
        first = (depth - slices) * n // max(1, count - 1) if depth > slices else 0
        data = volume.data[..., first : first + slices]
        data = np.roll(data, 3 * n, axis=1)
        shape: Voxel = (data.shape[1], data.shape[2], data.shape[3])
        grid = Geometry.from_codes(shape, volume.geometry.spacing, volume.geometry.orientation.codes)
        variants.append(Volume(np.ascontiguousarray(data), grid))
    return variants


class ProtocolClient(threading.Thread, ABC):
    """Client that clicks every :data:`INTERVAL_S` seconds once all clients have opened their scans."""

    def __init__(self, number: int, address: str, scan: int, labels: Labels, start: threading.Barrier) -> None:
        super().__init__(daemon=True)
        self.address, self.scan = address, scan
        self.errors: list[str] = []
        self.click_ms: list[float] = []
        self.entries: list[Entry] = []
        """Entries of the last result."""
        self.result: npt.NDArray[Any] | None = None
        self.minutes = 0.0
        self._labels, self._start_line = labels, start
        self._random = np.random.default_rng([SEED, number])

    def run(self) -> None:
        """Open the scan, and click until the time is over."""
        try:
            try:
                self.open()
            finally:
                self._start_line.wait(TIMEOUT_S)
            self._click_until(time.monotonic() + 60 * self.minutes)
        except Exception as error:
            self.errors.append(f"{type(error).__name__}: {error}")
        finally:
            with contextlib.suppress(Exception):
                self.close()

    @abstractmethod
    def open(self) -> None:
        """Wait until the scan is open."""

    @abstractmethod
    def click(self, voxel: Voxel, class_id: int, positive: bool) -> None:
        """Click, and keep result and entries."""

    @abstractmethod
    def begin(self) -> None:
        """Begin anew on the same scan."""

    def close(self) -> None:
        """Leave."""

    def _click_until(self, end: float) -> None:
        time.sleep(self._random.uniform(0, INTERVAL_S))
        present = np.unique(self._labels[self._labels > 0]).tolist()
        number, class_id = 0, 0
        while (begun := time.monotonic()) < end:
            if number % CLICKS_EACH == 0:
                if number:
                    self.begin()
                class_id = int(self._random.choice(present))
            positive = number % CLICKS_EACH != 1
            voxel = self._voxel(class_id if positive else 0)
            begun = time.monotonic()
            self.click(voxel, class_id, positive)
            self.click_ms.append(1000 * (time.monotonic() - begun))
            number += 1
            time.sleep(max(0.0, min(end, begun + INTERVAL_S) - time.monotonic()))

    def _voxel(self, class_id: int) -> Voxel:
        voxels = np.argwhere(self._labels == class_id)
        i, j, k = voxels[self._random.integers(len(voxels))].tolist()
        return i, j, k


class NNInteractiveClient(ProtocolClient):
    """nnInteractive's own client, on objects of no class."""

    def __init__(self, volume: Volume, object_id: int, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._volume, self._object = volume, NewClass(class_id=object_id, name="object")
        self._client: Any = None

    def open(self) -> None:
        """Send the scan, and click until it is encoded."""
        remote: Any = importlib.import_module("nnInteractive.inference.remote.remote_session")
        geometry = self._volume.geometry
        self._client = remote.nnInteractiveRemoteInferenceSession(
            f"{self.address}nninteractive/any/{geometry.orientation.codes}"
        )
        self._client.set_image(self._volume.data, {"spacing": geometry.spacing})
        self._buffer = np.zeros(geometry.shape, np.uint8)
        self._client.set_target_buffer(self._buffer)
        end = time.monotonic() + TIMEOUT_S
        while True:
            try:
                self.click(self._voxel(0), 0, True)
                break
            except remote.ServerAtCapacityError:  # the scan is still being encoded
                if time.monotonic() > end:
                    raise
                time.sleep(1)
        self.begin()

    def click(self, voxel: Voxel, class_id: int, positive: bool) -> None:
        """Click; the object's class is one of its own."""
        self._client.add_point_interaction(voxel, positive)
        point = Point(class_id=self._object.class_id, voxel=voxel, positive=positive)
        self.entries = [*(self.entries or [self._object]), point]
        self.result = self._buffer.copy()

    def begin(self) -> None:
        """Begin another object."""
        self._client.reset_interactions()
        self.entries = []

    def close(self) -> None:
        """Give the lease back."""
        if self._client is not None:
            self._client.close()

    def matches(self, labels: Labels) -> bool:
        """Whether the last mask is that of a local session."""
        return self.result is not None and bool(np.array_equal(self.result, labels == self._object.class_id))


class MonaiLabelClient(ProtocolClient):
    """MONAI Label's requests: every one sends all clicks, as 3D Slicer does."""

    def __init__(self, name: str, classes: dict[int, str], *arguments: Any) -> None:
        super().__init__(*arguments)
        self._name, self._classes = name, classes

    def open(self) -> None:
        """Request the automatic labels."""
        self._infer("automatic", {})

    def click(self, voxel: Voxel, class_id: int, positive: bool) -> None:
        """Click of a class; one outside of it is of the background."""
        point = Point(class_id=class_id if positive else 0, voxel=voxel)
        entries = [*self.entries, point]
        clicks: dict[str, list[Voxel]] = {}
        for entry in entries:
            assert isinstance(entry, Point)
            clicks.setdefault(self._classes[entry.class_id], []).append(entry.voxel)
        content = self._infer("clicks", clicks)
        ordered = {name: class_id for class_id, name in self._classes.items()}
        self.entries = [Point(class_id=ordered[name], voxel=v) for name, voxels in clicks.items() for v in voxels]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "labels.nii.gz"
            path.write_bytes(content)
            self.result = read_labels(path).data

    def begin(self) -> None:
        """Begin without clicks."""
        self.entries = []

    def _infer(self, model: str, clicks: dict[str, list[Voxel]]) -> bytes:
        url = f"{self.address}monailabel/infer/{model}?image={self._name}&output=image"
        answer = httpx.post(url, data={"params": json.dumps(clicks)}, timeout=TIMEOUT_S)
        answer.raise_for_status()
        return answer.content

    def matches(self, labels: Labels) -> bool:
        """Whether the last labels are those of a local session."""
        return self.result is not None and bool(np.array_equal(self.result, labels))


class Monitor(threading.Thread):
    """Time of ``/healthz`` and memory of the server, until it is stopped."""

    def __init__(self, address: str, pid: int) -> None:
        super().__init__(daemon=True)
        self.health_ms: list[float] = []
        self.cached_mb: list[float] = []
        self.resident_mb: list[float] = []
        self.errors: list[str] = []
        self.measuring = threading.Event()
        """Set while times are kept."""
        self.stopped = threading.Event()
        self._address, self._pid = address, pid

    def run(self) -> None:
        """Ask for the server's health again and again."""
        from benchmarks.serving import resident_mb

        with httpx.Client(timeout=TIMEOUT_S) as client:
            while not self.stopped.wait(HEALTH_INTERVAL_S):
                try:
                    begun = time.monotonic()
                    answer = client.get(f"{self._address}healthz").json()
                    if self.measuring.is_set():
                        self.health_ms.append(1000 * (time.monotonic() - begun))
                    self.cached_mb.append(answer["cached_mb"])
                    self.resident_mb.append(resident_mb(self._pid))
                except Exception as error:
                    self.errors.append(f"healthz: {type(error).__name__}: {error}")


def protocols(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure with the arguments of :mod:`benchmarks.serving`."""
    from benchmarks.serving import serving

    counts = (arguments.clients, arguments.monailabel)
    given = (arguments.scan, arguments.model, arguments.slices, arguments.images, arguments.monailabel)
    with prepared_scans(*given) as (folder, sessions, volumes, names), tempfile.TemporaryDirectory() as state:
        served = argparse.Namespace(**(vars(arguments) | {"scan": folder}))
        with serving(served, Path(state)) as (address, process):
            result = measure(address, process.pid, sessions, volumes, names, counts, arguments.minutes)
    cores = f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return {
        "memory_bound_mb": arguments.memory_mb,
        "shapes": [volume.geometry.shape for volume in volumes],
        "seed": SEED,
        **result,
        "load_average": os.getloadavg()[0],
        **provenance(f"{cores}, {processor()}, torch {torch.__version__}", arguments.scan),
    }


def measure(
    address: str,
    pid: int,
    sessions: Sequence[Session],
    volumes: Sequence[Volume],
    names: Sequence[str],
    counts: tuple[int, int],
    minutes: float,
) -> dict[str, Any]:
    """Run the clients, and compare their last results with local sessions.

    Args:
        address: of the server, with a slash at its end.
        pid: process of the server.
        sessions: a local session on each scan.
        volumes: the scans.
        names: ids of the same scans on the server, one for each of MONAI Label's clients.
        counts: clients of nnInteractive and of MONAI Label.
        minutes: duration of clicking.
    """
    start = threading.Barrier(sum(counts) + 1)
    classes = dict(sessions[0].segmenter.class_names)
    clients: list[NNInteractiveClient | MonaiLabelClient] = []
    for number in range(sum(counts)):
        own = number - counts[0]  # number among the clients of MONAI Label
        which = (number if own < 0 else own) % len(sessions)
        common = (number, address, which, sessions[which].labels, start)
        if own < 0:
            clients.append(NNInteractiveClient(volumes[which], max(classes) + 1, *common))
        else:
            clients.append(MonaiLabelClient(names[own], classes, *common))
    monitor = Monitor(address, pid)
    monitor.start()
    begun = time.monotonic()
    for client in clients:
        client.minutes = minutes
        client.start()
    start.wait(TIMEOUT_S)
    opened = time.monotonic() - begun
    opening_cpu = cpu_seconds(pid)
    monitor.measuring.set()
    for client in clients:
        client.join()
    spent, seconds = cpu_seconds(pid) - opening_cpu, time.monotonic() - begun - opened
    monitor.stopped.set()
    monitor.join()
    return {
        "clients": {"nninteractive": counts[0], "monailabel": counts[1]},
        "minutes": minutes,
        "seconds_until_all_scans_were_open": opened,
        "cpu_seconds_of_the_server": {"opening": opening_cpu, "clicking": spent},
        "cores_that_the_server_got_while_clicking": spent / seconds,
        "errors": [error for each in (*clients, monitor) for error in each.errors],
        **_click_times(clients, counts),
        "healthz_ms": _spread(monitor.health_ms),
        "most_cached_mb": max(monitor.cached_mb),
        "most_resident_mb": max(monitor.resident_mb),
        "results_compared": sum(bool(client.entries) for client in clients),
        "clients_with_results_of_other_clicks": _mixed(clients, sessions),
    }


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _click_times(
    clients: Sequence[NNInteractiveClient | MonaiLabelClient], counts: tuple[int, int]
) -> dict[str, dict[str, float]]:
    parts = {"click_ms": clients, "nninteractive_ms": clients[: counts[0]], "monailabel_ms": clients[counts[0] :]}
    return {name: _spread([ms for each in some for ms in each.click_ms]) for name, some in parts.items()}


def _mixed(clients: Sequence[NNInteractiveClient | MonaiLabelClient], sessions: Sequence[Session]) -> list[int]:
    """Numbers of the clients whose last result is not that of their own clicks."""
    mixed = []
    for number, client in enumerate(clients):
        session = sessions[client.scan]
        session.reset()
        if client.entries:
            session.add(*client.entries)
            if not client.matches(session.labels):
                mixed.append(number)
    return mixed


def _spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {"count": 0}
    return {
        "median": float(np.median(values)),
        "p95": float(np.percentile(values, 95)),
        "max": max(values),
        "count": len(values),
    }


@contextlib.contextmanager
def prepared_scans(
    scan: Path, model: str, slices: int, images: int, copies: int
) -> Iterator[tuple[Path, list[Session], list[Volume], list[str]]]:
    """Folder of scans for a server, local sessions on them, the scans, and their names for each MONAI Label client."""
    volumes = scan_variants(read_image(scan), slices, images)
    segmenter = Segmenter.from_pretrained(model, device="cpu")
    sessions = [Session(segmenter, volume) for volume in volumes]
    if not all(session.labels.any() for session in sessions):
        raise InputError(f"{scan}: a part of {slices} slices shows no class of the model; take more slices")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "scans"
        folder.mkdir()
        names = [f"scan-{n}.nii.gz" for n in range(copies)]
        for n, name in enumerate(names):
            write_image(folder / name, volumes[n % images])
        yield folder, sessions, volumes, names
