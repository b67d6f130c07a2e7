"""Time of s2vnet's automatic pass, its parts, and rounds of prompts."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.measures.energy import joules, read_energy
from benchmarks.measures.timing import Stopwatch, median_times
from s2vnet.batch.jobs import plan_jobs, predict
from s2vnet.data.preprocess import preprocess, with_neighbours
from s2vnet.inference.encoded_volume import BATCH_SIZE
from s2vnet.inference.segmenter import Segmenter, find_model
from s2vnet.interactive.session import Session
from s2vnet.io.files import read_image
from s2vnet.model.checkpoint import load_model, save_model
from s2vnet.model.interface import Network
from s2vnet.model.s2vnet import S2VNet
from s2vnet.prompts import Point

POINT_COUNTS = (1, 4, 16, 64)
POINT_ROUNDS, PROMPT_ROUNDS = 3, 5
"""Rounds timed for each number of points, and for one or all classes."""


class TimedNetwork:
    """Network that sums the time of its calls by part."""

    parts: ClassVar[Mapping[str, str]] = {"encode_slices": "encoding", "decode_slices": "decoding"}

    def __init__(self, network: Network) -> None:
        self.network = network
        self.seconds = dict.fromkeys(self.parts.values(), 0.0)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.network, name)
        if name not in self.parts:
            return attribute

        def timed(*arguments: Any) -> Any:
            with Stopwatch() as watch:
                result = attribute(*arguments)
            self.seconds[self.parts[name]] += watch.seconds
            return result

        return timed


def time_scan(scan: Path, model: str, runtime: str) -> dict[str, Any]:
    """Segment from file to file with a loaded model; includes compiling a runtime's graphs for the scan's size."""
    with Stopwatch() as loading:
        segmenter = Segmenter.from_pretrained(model, device="cpu", runtime=runtime)
    network = TimedNetwork(segmenter.models[0])
    segmenter.models = (network,)
    with tempfile.TemporaryDirectory() as folder:
        before = read_energy()
        with Stopwatch() as watch:
            results = list(predict(segmenter, plan_jobs(scan, Path(folder) / "labels.nii.gz", 1)))
        energy = joules(before, read_energy())
    assert [error for _, error in results] == [None]
    assert all(network.seconds.values()), "a timed method of the network has been renamed"
    rest = watch.seconds - sum(network.seconds.values())
    times = {"seconds": watch.seconds, "cpu_seconds": watch.cpu_seconds, "joules": energy, "loading": loading.seconds}
    return {**times, **network.seconds, "rest": rest}


def time_classes(scan: Path, model: str, classes: int) -> dict[str, Any]:
    """Call :func:`time_scan` with random weights for a number of classes, which are then predicted everywhere."""
    original = load_model(find_model(model))
    labels = {"background": 0, **{f"class {k}": k for k in range(1, classes)}}
    torch.manual_seed(0)
    network = S2VNet(original.model.config.model_copy(update={"num_classes": classes}))
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), network, {**original.plan, "labels": labels}, {})
        return time_scan(scan, folder, "torch")


def time_encoder(scan: Path, model: str, runtime: str) -> dict[str, float]:
    """Measure encoding of all slices."""
    segmenter = Segmenter.from_pretrained(model, device="cpu", runtime=runtime)
    case = preprocess(read_image(scan), segmenter.plan)
    depth, network = case.image.shape[1], segmenter.models[0]
    watches = []
    with torch.inference_mode():
        for start in range(0, depth, BATCH_SIZE):
            indices = range(start, min(start + BATCH_SIZE, depth))
            slices = torch.from_numpy(with_neighbours(case.image, indices, segmenter.plan.context_slices))
            with Stopwatch() as watch:
                network.encode_slices(slices)
            watches.append(watch)
    return {"seconds": sum(w.seconds for w in watches), "cpu_seconds": sum(w.cpu_seconds for w in watches)}


def time_prompts(scan: Path, model: str, runtime: str) -> dict[str, Any]:
    """Measure an automatic pass, and rounds of a prompt for one class and for every class."""
    segmenter = Segmenter.from_pretrained(model, device="cpu", runtime=runtime)
    volume = read_image(scan)
    with Stopwatch() as automatic:
        session = Session(segmenter, volume)
    rng = np.random.default_rng(0)
    classes = [k for k in segmenter.class_names if k]
    class_ids = {"one_prompt": classes[5:6] or classes[-1:], "prompt_for_every_class": classes}
    rounds: dict[str, list[Stopwatch]] = {name: [] for name in class_ids}
    for _ in range(PROMPT_ROUNDS):
        for name, watches in rounds.items():
            watches.append(_time_round(session, class_ids[name], rng))
    times = {"automatic_seconds": automatic.seconds, "automatic_cpu_seconds": automatic.cpu_seconds}
    medians = {name: median_times(watches) for name, watches in rounds.items()}
    return times | {f"{name}_{key}": value for name, median in medians.items() for key, value in median.items()}


def time_points(scan: Path, model: str, runtime: str) -> dict[str, Any]:
    """Measure rounds of simultaneous points, by their number, on the predicted classes in turn."""
    segmenter = Segmenter.from_pretrained(model, device="cpu", runtime=runtime)
    session = Session(segmenter, read_image(scan))
    rng = np.random.default_rng(0)
    ids = [k for k in np.unique(session.labels).tolist() if k] or [k for k in segmenter.class_names if k]
    rounds: dict[int, list[Stopwatch]] = {count: [] for count in POINT_COUNTS}
    for _ in range(POINT_ROUNDS):
        for count, watches in rounds.items():
            watches.append(_time_round(session, [ids[n % len(ids)] for n in range(count)], rng))
    return {"rounds": {count: median_times(watches) for count, watches in rounds.items()}}


def _time_round(session: Session, class_ids: list[int], rng: np.random.Generator) -> Stopwatch:
    """Add a point per class ID as one round, and undo it; only adding is timed."""
    points = [_point(session.labels, k, rng) for k in class_ids]
    with Stopwatch() as watch:
        session.add_round(points)
    session.undo()
    return watch


def _point(labels: npt.NDArray[np.uint8], class_id: int, rng: np.random.Generator) -> Point:
    """Draw a point on a voxel of the class, or anywhere if there is none."""
    voxels = np.argwhere(labels == class_id)
    i, j, k = (voxels[rng.integers(len(voxels))] if len(voxels) else rng.integers(labels.shape)).tolist()
    return Point(class_id=class_id, voxel=(i, j, k))
