"""Time of segmenting a scan, of a round of clicks, and of starting the command line.

python -m benchmarks.timing -m hippocampus-mr --data ../shared/data/Dataset004_Hippocampus -o docs/results/timing.json
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.measures.environment import processor, provenance, write_result
from benchmarks.measures.timing import Stopwatch, median_times, time_calls
from s2vnet.batch.jobs import plan_jobs, predict
from s2vnet.data.dataset import read_dataset
from s2vnet.evaluation.simulated_clicks import next_click
from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.io.geometry import LabelMap, Volume

CASES = 12
ROUNDS = 5
STARTS = 5


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="hippocampus-mr")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    dataset = read_dataset(arguments.data)
    segmenter = Segmenter.from_pretrained(arguments.model, device="cpu", runtime="torch")
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
    result: dict[str, Any] = {
        "threads": by_threads,
        "slices": int(cases[0][1].geometry.canonical()[0].shape[axis]),
        "help_seconds": time_calls(_help, STARTS)["seconds"],
        "cases": len(cases),
        **provenance(f"{processor()}, torch {torch.__version__}"),
    }
    write_result(arguments.output, result)


def _predict(model: str, image: Path) -> float:
    """Wall-clock seconds to load a model and segment one file."""
    with tempfile.TemporaryDirectory() as folder:
        jobs = plan_jobs(image, Path(folder) / "labels.nii.gz", 1)
        with Stopwatch() as watch:
            segmenter = Segmenter.from_pretrained(model, device="cpu", runtime="torch")
            assert [error for _, error in predict(segmenter, jobs)] == [None]
        return watch.seconds


def _clicks(segmenter: Segmenter, cases: list[tuple[Volume, LabelMap]]) -> dict[str, float]:
    """Median seconds of an automatic pass, and of rounds of one click and of one click per class."""
    passes: list[Stopwatch] = []
    rounds: dict[bool, list[Stopwatch]] = {False: [], True: []}
    class_ids = [k for k in segmenter.class_names if k]
    for volume, labels in cases:
        for every_class, watches in rounds.items():
            with Stopwatch() as watch:
                session = Session(segmenter, volume)
            passes.append(watch)
            for number in range(ROUNDS):
                clicked = class_ids if every_class else [class_ids[number % len(class_ids)]]
                clicks = [c for c in (next_click(session.labels, labels.data, k) for k in clicked) if c is not None]
                with Stopwatch() as watch:
                    session.add(*clicks)
                watches.append(watch)
    full, single, every = (median_times(w)["seconds"] for w in (passes, rounds[False], rounds[True]))
    return {
        "encode_and_segment_seconds": full,
        "one_click_seconds": single,
        "click_for_every_class_seconds": every,
        "one_click_is_cheaper_by": full / single,
        "click_for_every_class_is_cheaper_by": full / every,
    }


def _help() -> None:
    subprocess.run([sys.executable, "-m", "s2vnet", "--help"], check=True, capture_output=True)


if __name__ == "__main__":
    main()
