"""What a scan and a click cost, and how long the command line takes to start.

python benchmarks/timing.py -m hippocampus-mr --data ../shared/data/Dataset004_Hippocampus -o docs/results/timing.json
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from s2vnet.batch.jobs import plan_jobs, predict
from s2vnet.data.dataset import read_dataset
from s2vnet.evaluation.clicks import next_click
from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.io.geometry import LabelMap, Volume
from s2vnet.utils.atomic_write import atomic_write

CASES = 12
ROUNDS = 5
STARTS = 5


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="hippocampus-mr")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    dataset = read_dataset(arguments.data)
    segmenter = Segmenter.from_pretrained(arguments.model, device="cpu")
    axis = segmenter.plan.axis
    cases = []
    for case in dataset.training:
        volume, labels = dataset.read(case)
        assert labels is not None
        if volume.geometry.canonical()[0].shape[axis] >= 40:
            cases.append((case, volume, labels))
        if len(cases) == CASES:
            break
    by_threads = {}
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        by_threads[str(threads)] = {
            "predict_seconds_with_loading": _predict(arguments.model, cases[0][0].images[0]),
            **_clicks(segmenter, [(volume, labels) for _, volume, labels in cases]),
        }
    found: dict[str, Any] = {
        "threads": by_threads,
        "slices": int(cases[0][1].geometry.canonical()[0].shape[axis]),
        "help_seconds": float(np.median([_help() for _ in range(STARTS)])),
        "cases": len(cases),
        "command": "python benchmarks/timing.py " + " ".join(sys.argv[1:]),
        "date": datetime.date.today().isoformat(),
        "hardware": f"{platform.machine()} CPU, torch {torch.__version__}",
    }
    with atomic_write(arguments.output) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))  # noqa: T201


def _predict(model: str, image: Path) -> float:
    """Seconds to load a model and segment one file."""
    with tempfile.TemporaryDirectory() as folder:
        jobs = plan_jobs(image, Path(folder) / "labels.nii.gz", 1)
        start = time.perf_counter()
        fresh = Segmenter.from_pretrained(model, device="cpu")
        assert [error for _, error in predict(fresh, jobs)] == [None]
        return time.perf_counter() - start


def _clicks(segmenter: Segmenter, cases: list[tuple[Volume, LabelMap]]) -> dict[str, float]:
    """Medians over cases of encoding and segmenting anew, and of rounds of one click and of a click for every class."""
    anew, one, all_classes = [], [], []
    for volume, labels in cases:
        for many, seconds in ((False, one), (True, all_classes)):
            start = time.perf_counter()
            session = Session(segmenter, volume)
            anew.append(time.perf_counter() - start)
            for number in range(ROUNDS):
                ids = [k for k in segmenter.class_names if k]
                wanted = ids if many else [ids[number % len(ids)]]
                clicks = [c for c in (next_click(session.labels, labels.data, k) for k in wanted) if c is not None]
                start = time.perf_counter()
                session.add(*clicks)
                seconds.append(time.perf_counter() - start)
    full, single, every = (float(np.median(values)) for values in (anew, one, all_classes))
    return {
        "encode_and_segment_seconds": full,
        "one_click_seconds": single,
        "click_for_every_class_seconds": every,
        "one_click_is_cheaper_by": full / single,
        "click_for_every_class_is_cheaper_by": full / every,
    }


def _help() -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "s2vnet", "--help"], check=True, capture_output=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
