"""Aggregate the files of all stages of a benchmark into a report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measures.calibration import calibration_error
from benchmarks.measures.error_analysis import error_rates, sum_counts
from s2vnet.evaluation.protocol import InteractiveScores
from s2vnet.evaluation.report import automatic_report, interactive_report, mean
from s2vnet.metrics.overlap_and_distance import ClassMetrics

MAX_HISTORY_ROWS = 100
"""Rows of a training's history that a report keeps."""
COSTS = ("parameters", "steps", "seconds", "cpu_seconds", "peak_mb", "gpu_peak_mb")

Report = dict[str, Any]


def gather(folders: Sequence[Path], class_names: Mapping[int, str], rounds: int) -> Report:
    """Report of one method from the folders of its folds and seeds.

    Automatic scores of a case are averaged over seeds first, so that confidence intervals are over cases only.

    Args:
        folders: of the runs.
        class_names: without background.
        rounds: of clicks.
    """
    scores = {folder: _read_all(folder / "scores") for folder in folders}
    runs = [(f"{folder.parent.name}/{name}", case) for folder, cases in scores.items() for name, case in cases.items()]
    cases = [case for _, case in runs]
    report = automatic_report(_metrics_by_case(scores), class_names)
    played = {name: _played(case["played"]) for name, case in runs if "played" in case}
    if played:
        report |= interactive_report(played, class_names, rounds)
        report["interactive"]["clicks_per_case"] = float(np.mean([sum(case["clicks"]) for case in cases]))
    if all("one_at_a_time" in case for case in cases):
        report["one_at_a_time"] = _click_effects([row for c in cases for row in c["one_at_a_time"]], class_names)
    if all("calibration" in case for case in cases):
        bins = sum_counts([case["calibration"] for case in cases])
        spearman = mean([number(case["spearman"]) for case in cases])
        report["uncertainty"] = {"ece": calibration_error(bins), "bins": bins, "spearman": spearman}
    report["failures"] = error_rates(sum_counts([case["failures"] for case in cases]))
    trained = [json.loads((folder / "trained.json").read_text()) for folder in folders]
    predicted = [record for folder in folders for record in _read_all(folder / "predicted").values()]
    report["hardware"] = sorted({record.get("hardware", "hardware not noted") for record in predicted})
    report["hardware"] += sorted({t["hardware"] for t in trained if "hardware" in t} - {*report["hardware"]})
    report["cost"] = _cost(trained, predicted)
    report["runs"] = [_run(f, scores[f], t["history"]) for f, t in zip(folders, trained, strict=True)]
    return report


def _metrics_by_case(scores: Mapping[Path, Mapping[str, Report]]) -> dict[str, dict[int, ClassMetrics]]:
    names = sorted({name for cases in scores.values() for name in cases})
    return {name: _average([cases[name]["metrics"] for cases in scores.values() if name in cases]) for name in names}


def _average(seeds: Sequence[Mapping[str, Mapping[str, float | None]]]) -> dict[int, ClassMetrics]:
    """Average a case's metrics by class over seeds."""
    keys = ("dice", "nsd", "hd95")
    return {int(k): ClassMetrics(*(mean([number(seed[k][s]) for seed in seeds]) for s in keys)) for k in seeds[0]}


def _cost(trained: Sequence[Report], predicted: Sequence[Report]) -> Report:
    parts = list(predicted[0]["seconds"])
    return {
        **{key: mean([number(record.get(key)) for record in trained]) for key in COSTS},
        "seconds_per_scan": {part: mean([record["seconds"][part] for record in predicted]) for part in parts},
        "segmenting_peak_mb": max(record["peak_mb"] for record in predicted),
        "segmenting_gpu_peak_mb": max(record.get("gpu_peak_mb", math.nan) for record in predicted),
    }


def _run(folder: Path, cases: Mapping[str, Report], history: Sequence[Report]) -> Report:
    dice = mean([number(metrics["dice"]) for case in cases.values() for metrics in case["metrics"].values()])
    stride = -(-len(history) // MAX_HISTORY_ROWS) or 1
    return {"run": folder.parent.name, "dice": dice, "history": history[::stride]}


def extreme_cases(method: Report) -> dict[str, str]:
    """Best, median and worst case by mean Dice."""
    rows = sorted(method["automatic"]["cases"], key=lambda row: number(row["dice"]))
    return {"best": rows[-1]["case"], "median": rows[len(rows) // 2]["case"], "worst": rows[0]["case"]}


def number(value: float | None) -> float:
    """A number read from JSON, where NaN is null."""
    return math.nan if value is None else value


def _read_all(folder: Path) -> dict[str, Report]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def _played(content: Report) -> InteractiveScores:
    def scores(key: str) -> list[dict[int, float]]:
        return [{int(k): number(value) for k, value in by_class.items()} for by_class in content[key]]

    return InteractiveScores(scores("dice"), scores("nsd"), [], content["seconds_per_round"])


def _click_effects(rows: Sequence[Mapping[str, float]], class_names: Mapping[int, str]) -> Report:
    """Mean effects over all clicks and per class, and the lowest mean effect of one class's clicks on the others."""
    per_class = {}
    for k, name in class_names.items():
        clicks = [row for row in rows if row["class"] == k]
        if clicks:
            per_class[name] = {key: mean([row[key] for row in clicks if key in row]) for key in ("prompted", "others")}
    others = [row for row in rows if "others" in row]
    means = [row["others"] for row in per_class.values()]
    return {
        "prompted": mean([row["prompted"] for row in rows]),
        "others": mean([row["others"] for row in others]),
        "least_others": min((v for v in means if not math.isnan(v)), default=math.nan),
        "worst": min((row["worst"] for row in others), default=math.nan),
        "per_class": per_class,
    }
