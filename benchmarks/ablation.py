"""Is propagation worth having? The same network and budget with and without it, on a phantom and on real data.

    python benchmarks/ablation.py phantom --steps 800 -o docs/results/ablation.json
    python benchmarks/ablation.py hippocampus --data ../shared/data/Dataset004_Hippocampus --steps 600 \\
        -o docs/results/ablation.json
    python benchmarks/ablation.py btcv --data ../shared/data/Dataset013_BTCV --spacing 6 --steps 3000 --batch-size 2 \\
        -o docs/results/ablation.json

The phantom is that of `phantom.py`. Finished runs are kept in the output, so that it can be interrupted.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phantom import SIZE, draw
from recipe import changed_plan
from s2vnet.config import ModelConfig, TrainConfig
from s2vnet.data.dataset import read_dataset, read_folds
from s2vnet.data.fingerprint import extract_fingerprint
from s2vnet.data.plan import IntensityScheme, Plan, make_plan
from s2vnet.data.preprocess import Case, preprocess
from s2vnet.inference.segmenter import Segmenter
from s2vnet.metrics.segmentation import dice
from s2vnet.training.trainer import load_cases, train
from s2vnet.utils.atomic_write import atomic_write

VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "none": ({"propagation": "none"}, {}),
    "previous": ({"propagation": "previous"}, {}),
    "aggregated": ({}, {}),
    "aggregated-soft": ({"assignment": "soft"}, {}),
    "aggregated-cut-off": ({"through_time": False}, {}),
    "aggregated-centres-alone": ({"mask_prior": False}, {}),
    "aggregated-both-modes": ({}, {"interactive_fraction": 0.6}),
    "previous-cut-off": ({"propagation": "previous", "through_time": False}, {}),
    "aggregated-cut-off-soft": ({"assignment": "soft", "through_time": False}, {}),
    "aggregated-cut-off-both-modes": ({"through_time": False}, {"interactive_fraction": 0.6}),
}
"""Settings of network and training that differ from the default."""
RUNS = {"phantom": "phantom_runs", "hippocampus": "runs", "btcv": "btcv_runs"}
"""Where the output keeps the runs of a testbed."""

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


def phantom(depth: int, rng: np.random.Generator, name: str) -> Case:
    """A phantom as the network sees it."""
    image, labels = draw(depth, rng)
    return preprocess(image, PHANTOM_PLAN, labels, name)


def score(segmenter: Segmenter, cases: list[Case]) -> float:
    """Mean Dice over cases and classes, on the network's grid (stem stride 1)."""
    found = []
    for case in cases:
        assert case.labels is not None
        predicted = segmenter.segment_case(case).scores.argmax(1).cpu().numpy()
        found.append(np.nanmean([dice(predicted == k, case.labels == k) for k in segmenter.class_names if k]))
    return float(np.mean(found))


def fit(variant: str, seed: int, cases: list[Case], plan: Plan, steps: int, batch_size: int) -> tuple[Segmenter, float]:
    """Train a variant, without prompts unless it says otherwise; also the seconds that it took."""
    network, changes = VARIANTS[variant]
    model = ModelConfig(
        in_channels=plan.in_channels, num_classes=plan.num_classes, encoder=plan.encoder, stem_stride=plan.stem_stride
    ).model_copy(update=network)
    settings = {"interactive_fraction": 0.0, "rarity_exponent": 0.0, "batch_size": batch_size, **changes}
    config = TrainConfig(seed=seed, epochs=max(1, steps // 50), **settings)
    start = datetime.datetime.now()
    with tempfile.TemporaryDirectory() as folder:
        trained = train(cases, [], plan, model, config, Path(folder), device="cpu")
    return Segmenter([trained], device="cpu"), (datetime.datetime.now() - start).total_seconds()


def run_phantom(variant: str, seed: int, steps: int, batch_size: int) -> dict[str, float]:
    """Dice on unseen phantoms of 12 and of 50 slices."""
    rng = np.random.default_rng((seed, 7))
    cases = [phantom(6, rng, f"train{n}") for n in range(60)]  # as long as a clip, so that every clip holds the mark
    segmenter, seconds = fit(variant, seed, cases, PHANTOM_PLAN, steps, batch_size)
    unseen = np.random.default_rng((seed, 8))
    short = score(segmenter, [phantom(12, unseen, f"short{n}") for n in range(20)])
    long = score(segmenter, [phantom(50, unseen, f"long{n}") for n in range(10)])
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
    found = {"seed": seed, "dice": score(segmenter, held_out), "seconds": seconds, "steps": steps}
    return found if spacing is None else found | {"spacing": spacing}


def coarser(plan: Plan, spacing: float) -> Plan:
    """The plan with a coarser sampling in plane and full-resolution masks, so that a CPU can train it in minutes."""
    return changed_plan(plan, {"spacing": (spacing, spacing), "encoder": "tiny", "stem_stride": 1})


def load(path: Path) -> dict[str, Any]:
    """What earlier runs found."""
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"variants": {}, "commands": []}
    return content


def main() -> None:
    """Run what is not in the output yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(RUNS))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--spacing", type=float, help="coarser sampling in plane, mm")
    parser.add_argument("--variants", nargs="+", default=["none", "previous", "aggregated"], choices=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=TrainConfig().batch_size, help="clips per step")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    command = "python benchmarks/ablation.py " + " ".join(sys.argv[1:])
    for seed, variant in itertools.product(arguments.seeds, arguments.variants):
        runs = load(arguments.output)["variants"].get(variant, {}).get(RUNS[arguments.what], [])
        wanted = {
            "seed": seed,
            "steps": arguments.steps,
            "spacing": arguments.spacing,
            "batch_size": arguments.batch_size,
        }
        if any(wanted.items() <= {"spacing": None, "batch_size": 4, **run}.items() for run in runs):
            continue
        if arguments.what == "phantom":
            found = run_phantom(variant, seed, arguments.steps, arguments.batch_size)
        else:
            found = run_dataset(variant, seed, arguments.steps, arguments.batch_size, arguments.data, arguments.spacing)
        found["batch_size"] = arguments.batch_size
        content = load(arguments.output)  # again, since another process may have written meanwhile
        entry = content["variants"].setdefault(variant, {"runs": [], "phantom": []})
        entry.setdefault(RUNS[arguments.what], []).append(found)
        entry["phantom"] = [run["dice"] for run in entry.get("phantom_runs", [])]
        content["commands"] = sorted({*content["commands"], command})
        content["command"] = "; ".join(content["commands"])
        content["date"] = datetime.date.today().isoformat()
        content["hardware"] = f"{platform.machine()} CPU, one thread, torch {torch.__version__}"
        with atomic_write(arguments.output) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")
        print(arguments.what, variant, found, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
