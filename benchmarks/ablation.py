"""Ablation of propagation: the same network and budget with and without it, on a phantom and on real data.

    python -m benchmarks.ablation phantom --steps 800 -o docs/results/ablation.json
    python -m benchmarks.ablation hippocampus --data ../shared/data/Dataset004_Hippocampus --steps 600 \\
        -o docs/results/ablation.json
    python -m benchmarks.ablation btcv --data ../shared/data/Dataset013_BTCV --spacing 6 --steps 3000 --batch-size 2 \\
        -o docs/results/ablation.json

The phantom is that of `benchmarks.recipes.phantom`. Finished runs are kept in the output; run the command again to
resume.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measures.environment import command, processor, write_json
from benchmarks.measures.timing import Stopwatch
from benchmarks.recipes.phantom import SIZE, draw_phantom
from benchmarks.recipes.recipe import changed_plan
from s2vnet.config import ModelConfig, TrainConfig
from s2vnet.data.dataset import read_dataset, read_folds
from s2vnet.data.fingerprint import extract_fingerprint
from s2vnet.data.plan import IntensityScheme, Plan, make_plan
from s2vnet.data.preprocess import Case, preprocess
from s2vnet.inference.segmenter import Segmenter
from s2vnet.metrics.overlap_and_distance import dice
from s2vnet.training.trainer import Hardware, Trainer, load_cases

VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "none": ({"propagation": "none"}, {}),
    "previous": ({"propagation": "previous"}, {}),
    "aggregated": ({}, {}),
    "aggregated-soft": ({"assignment": "soft"}, {}),
    "aggregated-cut-off": ({"through_time": False}, {}),
    "aggregated-centres-alone": ({"mask_prior": False}, {}),
    "previous-cut-off": ({"propagation": "previous", "through_time": False}, {}),
    "aggregated-cut-off-soft": ({"assignment": "soft", "through_time": False}, {}),
}
"""Changes to the default configurations of network and training."""
RUNS = {"phantom": "phantom_runs", "hippocampus": "runs", "btcv": "btcv_runs"}
"""Key of a testbed's runs in the output."""

PHANTOM_PLAN = Plan(
    dataset="phantom",
    channels=("mark",),
    labels={"background": 0, "left tube": 1, "right tube": 2},
    plane="axial",
    spacing=(1.0, 1.0),
    patch_size=(SIZE, SIZE),
    intensities=(IntensityScheme(kind="zscore"),),
    crop_to_nonzero=False,
    context_slices=0,
    encoder="tiny",
    stem_stride=1,
)


def phantom_case(depth: int, rng: np.random.Generator, name: str) -> Case:
    """Generate and preprocess a phantom."""
    image, labels = draw_phantom(depth, rng)
    return preprocess(image, PHANTOM_PLAN, labels, name)


def score(segmenter: Segmenter, cases: list[Case]) -> float:
    """Mean Dice over cases and classes, on the network's grid (stem stride 1)."""
    scores = []
    for case in cases:
        assert case.labels is not None
        predicted = segmenter.segment_case(case).scores.argmax(1).cpu().numpy()
        scores.append(np.nanmean([dice(predicted == k, case.labels == k) for k in segmenter.class_names if k]))
    return float(np.mean(scores))


def fit(variant: str, seed: int, cases: list[Case], plan: Plan, steps: int, batch_size: int) -> tuple[Segmenter, float]:
    """Train a variant; also the wall-clock seconds of training."""
    network, training = VARIANTS[variant]
    model = ModelConfig(
        in_channels=plan.in_channels, num_classes=plan.num_classes, encoder=plan.encoder, stem_stride=plan.stem_stride
    ).model_copy(update=network)
    settings = {"rarity_exponent": 0.0, "batch_size": batch_size, **training}
    config = TrainConfig(seed=seed, epochs=max(1, steps // 50), **settings)
    with tempfile.TemporaryDirectory() as folder, Stopwatch() as watch:
        trained = Trainer(cases, plan, model, config, Hardware("cpu")).run(Path(folder))
    return Segmenter([trained], device="cpu"), watch.seconds


def run_phantom(variant: str, seed: int, steps: int, batch_size: int) -> dict[str, float]:
    """Dice on held-out phantoms of 12 and of 50 slices."""
    rng = np.random.default_rng((seed, 7))
    cases = [
        phantom_case(6, rng, f"train{n}") for n in range(60)
    ]  # as long as a clip, so that every clip includes the first slice
    segmenter, seconds = fit(variant, seed, cases, PHANTOM_PLAN, steps, batch_size)
    held_out = np.random.default_rng((seed, 8))
    short = score(segmenter, [phantom_case(12, held_out, f"short{n}") for n in range(20)])
    long = score(segmenter, [phantom_case(50, held_out, f"long{n}") for n in range(10)])
    return {"seed": seed, "dice": short, "dice_50_slices": long, "seconds": seconds, "steps": steps}


def run_dataset(
    variant: str, seed: int, steps: int, batch_size: int, data: Path, spacing: float | None
) -> dict[str, float]:
    """Dice on the held-out cases of fold 0, on the network's grid."""
    dataset = read_dataset(data)
    plan = make_plan(extract_fingerprint(dataset))
    if spacing is not None:
        plan = coarser(plan, spacing)
    fold = read_folds(dataset)[0]
    cases, held_out = (load_cases(dataset, fold[part], plan, report=lambda *_: None) for part in ("train", "val"))
    segmenter, seconds = fit(variant, seed, cases, plan, steps, batch_size)
    result = {"seed": seed, "dice": score(segmenter, held_out), "seconds": seconds, "steps": steps}
    return result if spacing is None else result | {"spacing": spacing}


def coarser(plan: Plan, spacing: float) -> Plan:
    """Coarsen a plan in plane (mm), with full-resolution masks, so that a CPU trains it in minutes."""
    return changed_plan(plan, {"spacing": (spacing, spacing), "encoder": "tiny", "stem_stride": 1})


def load(path: Path) -> dict[str, Any]:
    """Read the results of earlier runs."""
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"variants": {}, "commands": []}
    return content


def main() -> None:
    """Run every variant and seed that the output does not contain."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("testbed", choices=list(RUNS))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--spacing", type=float, help="coarser sampling in plane, mm")
    parser.add_argument("--variants", nargs="+", default=["none", "previous", "aggregated"], choices=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=TrainConfig().batch_size, help="clips per step")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for seed, variant in itertools.product(arguments.seeds, arguments.variants):
        runs = load(arguments.output)["variants"].get(variant, {}).get(RUNS[arguments.testbed], [])
        settings = {
            "seed": seed,
            "steps": arguments.steps,
            "spacing": arguments.spacing,
            "batch_size": arguments.batch_size,
        }
        if any(settings.items() <= {"spacing": None, "batch_size": 4, **run}.items() for run in runs):
            continue
        if arguments.testbed == "phantom":
            result = run_phantom(variant, seed, arguments.steps, arguments.batch_size)
        else:
            result = run_dataset(
                variant, seed, arguments.steps, arguments.batch_size, arguments.data, arguments.spacing
            )
        result["batch_size"] = arguments.batch_size
        content = load(arguments.output)  # again, since another process may have written
        entry = content["variants"].setdefault(variant, {"runs": [], "phantom": []})
        entry.setdefault(RUNS[arguments.testbed], []).append(result)
        entry["phantom"] = [run["dice"] for run in entry.get("phantom_runs", [])]
        content["commands"] = sorted({*content["commands"], command()})
        content["command"] = "; ".join(content["commands"])
        content["date"] = datetime.date.today().isoformat()
        content["hardware"] = f"{processor()}, one thread, torch {torch.__version__}"
        write_json(arguments.output, content)
        print(arguments.testbed, variant, result, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
