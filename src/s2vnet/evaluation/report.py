"""Evaluation reports as dictionaries (JSON) and tables (Markdown). Undefined scores are NaN."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from s2vnet.errors import InputError
from s2vnet.evaluation.protocol import InteractiveScores, auc, clicks_to_reach
from s2vnet.metrics.overlap_and_distance import ClassMetrics, bootstrap_mean
from s2vnet.utils.atomic_write import atomic_write
from s2vnet.utils.file_names import printable

Report = dict[str, Any]

SCORES = ("dice", "nsd", "hd95")

LOW_DICE = 0.2
"""Mean Dice up to which the NSD of a case is 0 in the interactive report (CVPR 2025 interactive challenge)."""


def automatic_report(
    cases: Mapping[str, Mapping[int, ClassMetrics]],
    class_names: Mapping[int, str],
    regions: Mapping[str, Mapping[str, ClassMetrics]] | None = None,
) -> Report:
    """Summarize automatic segmentation under the key ``automatic``.

    The score of a case is the mean over the classes defined in it, and the score of the report the mean over cases.
    ``*_ci95`` are percentile bootstrap intervals over cases. Dice and NSD lie in 0..1, HD95 in mm.

    Args:
        cases: metrics by case name and class.
        class_names: name of every class in ``cases``.
        regions: metrics by case name and region (union of classes), reported under ``regions``.
    """
    rows = [_automatic_case(name, metrics, class_names) for name, metrics in cases.items()]
    ids = sorted({c for metrics in cases.values() for c in metrics})
    per_class = {
        class_names[c]: _summary([_scores(metrics[c]) for metrics in cases.values() if c in metrics], count=True)
        for c in ids
    }
    report = {**_summary(rows), "per_class": per_class, "cases": rows}
    return {"automatic": report | ({"regions": _regions_report(regions)} if regions and any(regions.values()) else {})}


def _regions_report(cases: Mapping[str, Mapping[str, ClassMetrics]]) -> Report:
    """Scores of unions of classes: their mean, and those of each region and case."""
    scores = {case: {name: _scores(one) for name, one in metrics.items()} for case, metrics in cases.items()}
    rows = [
        {
            "case": printable(case),
            **{key: mean(one[key] for one in regions.values()) for key in SCORES},
            "per_region": regions,
        }
        for case, regions in scores.items()
    ]
    names = dict.fromkeys(name for regions in scores.values() for name in regions)
    per_region = {name: _summary([one[name] for one in scores.values()], count=True) for name in names}
    return {**_summary(rows), "per_region": per_region, "cases": rows}


def interactive_report(
    scores: Mapping[str, InteractiveScores], class_names: Mapping[int, str], rounds: int = 5
) -> Report:
    """Summarize interactive segmentation under the key ``interactive``.

    Per round, a case has the mean over its classes and the report the mean over cases. By the challenge's rule the
    NSD of a case is 0 in every round in which its mean Dice is at most 0.2; this rule holds in this report only.
    ``dsc_auc`` and ``nsd_auc`` are means over cases of the area over rounds 1 to ``rounds`` (largest: ``rounds`` - 1).
    ``noc85`` and ``noc90`` are mean numbers of clicks until a class reaches Dice 0.85 and 0.90, over all classes of
    all cases; a class that never does counts as ``rounds`` (as RITM caps, arXiv 2102.06583), and ``failed85`` and
    ``failed90`` are the fractions of these classes. ``seconds_per_round`` is the mean over all rounds with clicks.

    Raises:
        InputError: a case does not have scores of ``rounds`` rounds.
    """
    for name, one in scores.items():
        if len(one.dice) != rounds + 1:
            raise InputError(f"{name}: evaluated {len(one.dice) - 1} rounds, not {rounds}; evaluate it again")
    rows = [_interactive_case(name, one, class_names) for name, one in scores.items()]
    curves = [[dice[c] for dice in one.dice] for one in scores.values() for c in one.dice[0]]
    report: Report = {
        "dice_per_round": [mean(row["dice_per_round"][r] for row in rows) for r in range(rounds + 1)],
        "nsd_per_round": [mean(row["nsd_per_round"][r] for row in rows) for r in range(rounds + 1)],
        "dsc_auc": mean(auc(row["dice_per_round"]) for row in rows),
        "nsd_auc": mean(auc(row["nsd_per_round"]) for row in rows),
    }
    if any(one.region_dice for one in scores.values()):
        names = dict.fromkeys(name for one in scores.values() for row in one.region_dice for name in row)
        report["dice_per_round_by_region"] = {
            name: [mean(one.region_dice[r][name] for one in scores.values()) for r in range(rounds + 1)]
            for name in names
        }
    for target in (85, 90):
        needed = [clicks_to_reach(curve, target / 100) for curve in curves]
        report[f"noc{target}"] = mean(rounds if n is None else n for n in needed)
        report[f"failed{target}"] = mean(n is None for n in needed)
    report["seconds_per_round"] = mean(s for one in scores.values() for s in one.seconds_per_round)
    return {"interactive": {**report, "cases": rows}}


def write_report(path: Path, report: Report) -> None:
    """Write ``report`` as JSON (NaN becomes null) to ``path`` and as Markdown beside it, with the ending ``.md``.

    Raises:
        InputError: the path itself ends in ``.md``, or cannot be written.
    """
    if path.suffix == ".md":
        raise InputError(f"{path}: name the JSON file, e.g. {path.with_suffix('.json')}; the tables are written beside")
    text = json.dumps(nullable(report), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    for name, content in ((path, text), (path.with_suffix(".md"), markdown(report))):
        with atomic_write(name) as temporary:
            temporary.write_text(content, encoding="utf-8", errors="backslashreplace")


def markdown(report: Report, cases: bool = True) -> str:
    """Format the parts ``automatic`` and ``interactive`` as tables; optionally with a row per case."""
    parts = []
    if "automatic" in report:
        parts.append(_automatic_tables(report["automatic"], cases))
    if "interactive" in report:
        parts.append(_interactive_tables(report["interactive"], cases))
    return "\n".join(parts)


def _scores(metrics: ClassMetrics) -> dict[str, float]:
    return {score: float(getattr(metrics, score)) for score in SCORES}


def _automatic_case(name: str, metrics: Mapping[int, ClassMetrics], class_names: Mapping[int, str]) -> Report:
    per_class = {class_names[c]: _scores(one) for c, one in metrics.items()}
    means = {score: mean(row[score] for row in per_class.values()) for score in SCORES}
    return {"case": printable(name), **means, "per_class": per_class}


def _summary(rows: Sequence[Mapping[str, Any]], count: bool = False) -> Report:
    """Means of the scores, their confidence intervals, and optionally the number of rows with a score."""
    summary: Report = {}
    for score in SCORES:
        mean, low, high = bootstrap_mean(row[score] for row in rows)
        summary[score], summary[f"{score}_ci95"] = mean, [low, high]
    if count:
        summary["cases"] = sum(not math.isnan(row["dice"]) for row in rows)
    return summary


def _interactive_case(name: str, scores: InteractiveScores, class_names: Mapping[int, str]) -> Report:
    dice = [mean(one.values()) for one in scores.dice]
    nsd = [mean(one.values()) for one in scores.nsd]
    return {
        "case": printable(name),
        "dice_per_round": dice,
        "nsd_per_round": [0.0 if d <= LOW_DICE else n for d, n in zip(dice, nsd, strict=True)],
        "per_class": {class_names[c]: {"dice_per_round": [s[c] for s in scores.dice]} for c in scores.dice[0]},
    }


def mean(values: Iterable[float]) -> float:
    """Average the values that are not NaN; NaN if there are none."""
    known = [v for v in values if not math.isnan(v)]
    return float(np.mean(known)) if known else math.nan


def nullable(value: Any) -> Any:
    """Replace NaN and infinities by None, for JSON."""
    if isinstance(value, dict):
        return {key: nullable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [nullable(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _automatic_tables(part: Report, single: bool) -> str:
    head = ["", "Dice", "NSD (2 mm)", "HD95 (mm)"]
    classes = [[name, *_with_interval(row), str(row["cases"])] for name, row in part["per_class"].items()]
    classes.append(["**Mean**", *_with_interval(part), str(len(part["cases"]))])
    cases = [[row["case"], *(_number(row[score]) for score in SCORES)] for row in part["cases"]]
    regions = part.get("regions")
    unions = (
        []
        if regions is None
        else [
            *([name, *_with_interval(row), str(row["cases"])] for name, row in regions["per_region"].items()),
            ["**Mean**", *_with_interval(regions), str(len(regions["cases"]))],
        ]
    )
    return (
        "# Automatic segmentation\n\nMean over cases; in brackets the 95 % bootstrap interval.\n\n"
        + table(["Class", *head[1:], "Cases"], classes)
        + ("\n" + table(["Region (union of classes)", *head[1:], "Cases"], unions) if unions else "")
        + ("\n" + table(["Case", *head[1:]], cases) if single else "")
    )


def _interactive_tables(part: Report, single: bool) -> str:
    rounds = len(part["dice_per_round"]) - 1
    scores = [
        [name, *(_number(v) for v in part[f"{key}_per_round"]), _number(part[f"{area}_auc"])]
        for name, key, area in (("Dice", "dice", "dsc"), ("NSD (2 mm)", "nsd", "nsd"))
    ]
    scores += [
        [f"Dice of {name}", *map(_number, values), _number(auc(values))]
        for name, values in part.get("dice_per_round_by_region", {}).items()
    ]
    targets = [[f"0.{target}", _number(part[f"noc{target}"]), _number(part[f"failed{target}"])] for target in (85, 90)]
    cases = [[row["case"], *(_number(v) for v in row["dice_per_round"])] for row in part["cases"]]
    numbers = [str(number) for number in range(rounds + 1)]
    return (
        "# Interactive segmentation\n\nOne click per class and round; round 0 is the automatic result. "
        f"AUC covers rounds 1 to {rounds} (at most {rounds - 1}). "
        f"NSD is 0 where the mean Dice of a case is at most {LOW_DICE}.\n\n"
        + table(["Round", *numbers, "AUC"], scores)
        + f"\nA class that never reaches the Dice counts as {rounds} clicks.\n\n"
        + table(["Dice to reach", "Clicks", "Never reached"], targets)
        + f"\nSeconds per round: {_number(part['seconds_per_round'])}\n"
        + ("\n" + table(["Dice of case", *numbers], cases) if single else "")
    )


def _with_interval(row: Mapping[str, Any]) -> list[str]:
    return [f"{_number(row[s])} [{_number(row[f'{s}_ci95'][0])}, {_number(row[f'{s}_ci95'][1])}]" for s in SCORES]


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"


def _cell(text: str) -> str:
    """Text of a table's cell, on one line."""
    return " ".join(text.splitlines()).replace("|", "\\|")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table; all columns but the first are right-aligned."""
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "".join("| " + " | ".join(_cell(text) for text in line) + " |\n" for line in lines)
