"""How many scans an hour a batch segments, and what becomes of damaged scans and of a case whose worker is killed.

python benchmarks/batch.py -o docs/results/batch.json
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import json
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

from machine import command, processor
from phantom import draw
from s2vnet.batch.cases import BatchItem, list_items
from s2vnet.batch.jobs import plan_jobs, predict
from s2vnet.batch.runner import run_batch
from s2vnet.batch.workers import BatchSettings, ItemResult, ProcessWorker
from s2vnet.inference.segmenter import Segmenter
from s2vnet.io.files import read_labels, write_image
from s2vnet.io.geometry import Volume
from s2vnet.utils.atomic_write import atomic_write
from s2vnet.utils.cpu import available_cores

SEED = 0
INTO = 0.4
"""Share of a scan's usual seconds after which its worker is killed."""


class Watched(ProcessWorker):
    """A worker that counts whose labels are put in place, and is killed in the middle of one case, once."""

    placed: ClassVar[Counter[str]] = Counter()
    victim, after_s = "", 0.0

    def run(self, item: BatchItem) -> ItemResult:
        """As every worker's."""
        if item.case == Watched.victim:
            Watched.victim = ""
            threading.Timer(Watched.after_s, os.kill, (self.pid, signal.SIGKILL)).start()
        done = super().run(item)
        Watched.placed[item.case] += 1
        return done


def main() -> None:
    """Measure and write."""
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
        usual = reference(arguments.model, folder, names)
        bad = poison(folder / "images", names, arguments.poisoned)
        victim = next(case for case in names[len(names) // 2 :] if case not in bad)
        few = max(1, available_cores() // max(arguments.workers))
        runs = {}
        cores = available_cores()
        for workers, threads in sorted({(n, t) for n in arguments.workers for t in (few, max(1, cores // n))}):
            name = f"{workers} x {threads}"
            runs[name] = measure(arguments.model, folder, (workers, threads), bad, victim, usual)
    best = {n: max(run["scans_per_hour"] for run in runs.values() if run["workers"] == n) for n in arguments.workers}
    found = {
        "model": arguments.model,
        "scans": len(names),
        "poisoned": len(bad),
        "killed": victim,
        "in_this_process": {"seconds_per_scan": usual, "threads": torch.get_num_threads()},
        "workers": runs,
        "ratio": best[max(best)] / best[min(best)],
        "seed": SEED,
        "command": command(),
        "date": datetime.date.today().isoformat(),
        "hardware": f"{available_cores()} cores, {processor()}, torch {torch.__version__}",
        "load": os.getloadavg()[0],
    }
    with atomic_write(arguments.output) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))  # noqa: T201


def write_scans(folder: Path, count: int, depth: int) -> list[str]:
    """Phantoms; their cases."""
    folder.mkdir()
    rng = np.random.default_rng(SEED)
    names = [f"scan{number:04d}" for number in range(count)]
    for name in names:
        write_image(folder / f"{name}_0000.nii.gz", draw(depth, rng)[0])
    return names


def reference(model: str, folder: Path, names: Sequence[str]) -> float:
    """Segment all in this process, one thread as the workers' if they share two cores; median seconds of a scan."""
    segmenter = Segmenter.from_pretrained(model, device="cpu")
    torch.set_num_threads(1)
    times = [time.perf_counter()]
    for _, error in predict(segmenter, plan_jobs(folder / "images", folder / "reference", 1)):
        assert error is None, error
        times.append(time.perf_counter())
    return statistics.median(np.diff(times).tolist())


def poison(folder: Path, names: Sequence[str], count: int) -> set[str]:
    """Damage some scans, each in another way; their cases."""
    chosen = np.random.default_rng(SEED).choice(len(names), count, replace=False).tolist()
    for number, index in enumerate(chosen):
        file = folder / f"{names[index]}_0000.nii.gz"
        whole = file.read_bytes()
        ways: list[Any] = [whole[: len(whole) // 2], b"not an image\n", b"", gzip.compress(b"\0" * 348)]
        if number % 5 < 4:
            file.write_bytes(ways[number % 5])
        else:
            image, _ = draw(4, np.random.default_rng(SEED))
            write_image(file, Volume(np.full_like(image.data, np.nan), image.geometry))
    return {names[index] for index in chosen}


def measure(
    model: str, folder: Path, size: tuple[int, int], bad: set[str], victim: str, usual: float
) -> dict[str, Any]:
    """A batch of all scans by some workers of some threads each."""
    workers, threads = size
    target = folder / f"workers{workers}x{threads}"
    work = BatchSettings((model,), "cpu", threads=threads)
    Watched.placed, Watched.victim, Watched.after_s = Counter(), victim, INTO * usual
    items = list_items(str(folder / "images"), str(target), 1)
    began = time.perf_counter()
    records, times = [], []
    for record in run_batch(items, str(target), work, partial(Watched, work), workers=workers):
        records.append(record)
        times.append(time.perf_counter() - began)
    whole = {item.case for item in items} - bad
    done = [record for record in records if record.state == "done"]
    right = [case for case in whole if same(target / f"{case}.nii.gz", folder / "reference" / f"{case}.nii.gz")]
    repeated = [case for case, count in Counter(record.case for record in records).items() if count > 1]
    return {
        "workers": workers,
        "seconds": times[-1],
        "seconds_to_the_first": times[0],
        "scans_per_hour": 3600 * len(done) / times[-1],
        "scans_per_hour_once_begun": 3600 * (len(records) - 1) / (times[-1] - times[0]),
        "seconds_per_scan": statistics.median(record.seconds for record in done),
        "memory_mb": max(record.memory_mb or 0 for record in done),
        "threads": work.threads,
        "right": len(right),
        "of": len(whole),
        "poisoned_reported": len({record.case for record in records if record.state == "failed"} & bad),
        "wrongly_reported": len({record.case for record in records if record.state == "failed"} - bad),
        "twice": len(repeated) + sum(count > 1 for count in Watched.placed.values()),
        "attempts_of_the_killed": next(record.attempts for record in records if record.case == victim),
    }


def same(file: Path, other: Path) -> bool:
    """Whether two files hold the same labels on the same grid."""
    if not file.exists():
        return False
    a, b = read_labels(file), read_labels(other)
    return a.geometry.same_grid(b.geometry) and np.array_equal(a.data, b.data)


if __name__ == "__main__":
    main()
