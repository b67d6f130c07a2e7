"""Throughput of a batch, and its behaviour on damaged scans and when a worker is killed.

python -m benchmarks.batch -o docs/results/batch.json
"""

from __future__ import annotations

import argparse
import gzip
import os
import signal
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from benchmarks.measures.environment import processor, provenance, write_result
from benchmarks.recipes.phantom import draw_phantom
from s2vnet.batch.cases import BatchItem, list_items
from s2vnet.batch.jobs import plan_jobs, predict
from s2vnet.batch.runner import run_batch
from s2vnet.batch.workers import BatchSettings, ItemResult, ProcessWorker
from s2vnet.inference.segmenter import Segmenter
from s2vnet.io.files import read_labels, write_image
from s2vnet.io.geometry import Volume
from s2vnet.utils.cpu import available_cores

SEED = 0
KILL_AFTER = 0.4
"""Share of a scan's usual time after which its worker is killed."""


class ObservedWorker(ProcessWorker):
    """Worker that counts its finished cases, and is killed once, during a case."""

    finished: ClassVar[Counter[str]] = Counter()
    victim, after_s = "", 0.0

    def run(self, item: BatchItem) -> ItemResult:
        """Segment one case."""
        if item.case == ObservedWorker.victim:
            ObservedWorker.victim = ""
            threading.Timer(ObservedWorker.after_s, os.kill, (self.pid, signal.SIGKILL)).start()
        done = super().run(item)
        ObservedWorker.finished[item.case] += 1
        return done


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="hippocampus-mr")
    parser.add_argument("--scans", type=int, default=200)
    parser.add_argument("--poisoned", type=int, default=5)
    parser.add_argument("--depth", type=int, default=32, help="slices of a scan")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = write_scans(folder / "images", arguments.scans, arguments.depth)
        usual = segment_reference(arguments.model, folder, names)
        damaged = damage(folder / "images", names, arguments.poisoned)
        victim = next(case for case in names[len(names) // 2 :] if case not in damaged)
        cores = available_cores()
        few = max(1, cores // max(arguments.workers))
        runs = {}
        for workers, threads in sorted({(n, t) for n in arguments.workers for t in (few, max(1, cores // n))}):
            name = f"{workers} x {threads}"
            runs[name] = measure(arguments.model, folder, (workers, threads), damaged, victim, usual)
    best = {n: max(run["scans_per_hour"] for run in runs.values() if run["workers"] == n) for n in arguments.workers}
    result = {
        "model": arguments.model,
        "scans": len(names),
        "poisoned": len(damaged),
        "killed": victim,
        "in_this_process": {"seconds_per_scan": usual, "threads": torch.get_num_threads()},
        "workers": runs,
        "ratio": best[max(best)] / best[min(best)],
        "seed": SEED,
        **provenance(f"{cores} cores, {processor()}, torch {torch.__version__}"),
        "load": os.getloadavg()[0],
    }
    write_result(arguments.output, result)


def write_scans(folder: Path, count: int, depth: int) -> list[str]:
    """Write phantoms and return the names of their cases."""
    folder.mkdir()
    rng = np.random.default_rng(SEED)
    names = [f"scan{number:04d}" for number in range(count)]
    for name in names:
        write_image(folder / f"{name}_0000.nii.gz", draw_phantom(depth, rng)[0])
    return names


def segment_reference(model: str, folder: Path, names: Sequence[str]) -> float:
    """Segment all scans in this process on one thread; return the median seconds of a scan."""
    segmenter = Segmenter.from_pretrained(model, device="cpu", runtime="torch")
    torch.set_num_threads(1)
    times = [time.perf_counter()]
    for _, error in predict(segmenter, plan_jobs(folder / "images", folder / "reference", 1)):
        assert error is None, error
        times.append(time.perf_counter())
    return statistics.median(np.diff(times).tolist())


def damage(folder: Path, names: Sequence[str], count: int) -> set[str]:
    """Damage some scans, each in a different way; return the names of their cases."""
    indices = np.random.default_rng(SEED).choice(len(names), count, replace=False).tolist()
    for number, index in enumerate(indices):
        file = folder / f"{names[index]}_0000.nii.gz"
        content = file.read_bytes()
        replacements = [content[: len(content) // 2], b"not an image\n", b"", gzip.compress(b"\0" * 348)]
        if number % 5 < 4:
            file.write_bytes(replacements[number % 5])
        else:
            image, _ = draw_phantom(4, np.random.default_rng(SEED))
            write_image(file, Volume(np.full_like(image.data, np.nan), image.geometry))
    return {names[index] for index in indices}


def measure(
    model: str, folder: Path, size: tuple[int, int], damaged: set[str], victim: str, usual: float
) -> dict[str, Any]:
    """Segment all scans as a batch; ``size`` is the number of workers and of threads of each."""
    workers, threads = size
    target = folder / f"workers{workers}x{threads}"
    settings = BatchSettings((model,), "cpu", threads=threads)
    ObservedWorker.finished, ObservedWorker.victim = Counter(), victim
    ObservedWorker.after_s = KILL_AFTER * usual
    items = list_items(str(folder / "images"), str(target), 1)
    start = time.perf_counter()
    records, times = [], []
    for record in run_batch(items, str(target), settings, partial(ObservedWorker, settings), workers=workers):
        records.append(record)
        times.append(time.perf_counter() - start)
    intact = {item.case for item in items} - damaged
    done = [record for record in records if record.state == "done"]
    correct = [
        case for case in intact if same_labels(target / f"{case}.nii.gz", folder / "reference" / f"{case}.nii.gz")
    ]
    repeated = [case for case, count in Counter(record.case for record in records).items() if count > 1]
    return {
        "workers": workers,
        "seconds": times[-1],
        "seconds_to_the_first": times[0],
        "scans_per_hour": 3600 * len(done) / times[-1],
        "scans_per_hour_once_begun": 3600 * (len(records) - 1) / (times[-1] - times[0]),
        "seconds_per_scan": statistics.median(record.seconds for record in done),
        "memory_mb": max(record.memory_mb or 0 for record in done),
        "threads": settings.threads,
        "right": len(correct),
        "of": len(intact),
        "poisoned_reported": len({record.case for record in records if record.state == "failed"} & damaged),
        "wrongly_reported": len({record.case for record in records if record.state == "failed"} - damaged),
        "twice": len(repeated) + sum(count > 1 for count in ObservedWorker.finished.values()),
        "attempts_of_the_killed": next(record.attempts for record in records if record.case == victim),
    }


def same_labels(file: Path, other: Path) -> bool:
    """Whether two files have the same labels on the same grid."""
    if not file.exists():
        return False
    a, b = read_labels(file), read_labels(other)
    return a.geometry.same_grid(b.geometry) and np.array_equal(a.data, b.data)


if __name__ == "__main__":
    main()
