"""Markdown tables of a benchmark's report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from benchmarks.measures.calibration import BINS, MARGIN
from benchmarks.measures.error_analysis import END_DISTANCES, PARTS
from benchmarks.recipes.recipe import BOX_PROMPTED, OURS, PRETRAINED, SHIPPED
from benchmarks.reports.gather import Report, number
from s2vnet.evaluation.report import LOW_DICE, table

NAMES = {
    "s2vnet": "S2VNet",
    "unet2d": "2D U-Net",
    "unet3d": "3D U-Net",
    "nnunet2d": "nnU-Net's 2D network",
    "nnunet3d": "nnU-Net's 3D network",
    "unetr": "UNETR",
    "clicknet": "click channels, 3D (DeepEdit, RITM)",
    "litemedsam": "LiteMedSAM, true box per slice",
    "shipped": "S2VNet, weights bundled at the time",
}
"""Methods, as reports name them."""
CAPTIONS = {
    "curves": "Learning curves",
    "rounds": "Dice by round",
    "organs": "Dice per organ",
    "best": "Best case",
    "median": "Median case",
    "worst": "Worst case",
}
"""Captions of a report's pictures, by name."""
BUDGET_TOLERANCE = 0.01
"""Relative difference of training times that count as equal: a training ends with the step that exceeds its budget."""
SCORES = {"dice": "Dice", "nsd": "NSD", "hd95": "HD95 (mm)"}

Methods = Mapping[str, Report]


def markdown(report: Report, pictures: Mapping[str, str]) -> str:
    """Format a report (`report.json`) as Markdown; ``pictures`` are paths by name, see :data:`CAPTIONS`."""
    methods: Methods = report["methods"]
    parts = [f"# {report['title']}\n", _about(report), _automatic(methods, report["tolerance_mm"])]
    parts += [_interactive(methods), _uncertainty(methods), _cost(methods, report["device"])]
    if OURS in methods:
        parts.append(_errors(methods[OURS]["failures"]))
    parts += [f"![{caption}]({pictures[name]})\n" for name, caption in CAPTIONS.items() if name in pictures]
    return "\n".join(parts)


def _about(report: Report) -> str:
    cases, seeds = len(next(iter(report["methods"].values()))["automatic"]["cases"]), report["seeds"]
    text = f"Scored: {report['scored']}; cases: {cases}; seeds: {', '.join(map(str, seeds))}. "
    text += f"`{report['command']}`, {report['date']}, {report['hardware']}. {_budget(report)} "
    if SHIPPED in report["methods"]:
        text += "The training of the bundled weights is described in their model card. "
    rates = [f"{NAMES[m]} {rate:g}" for m, rate in report.get("learning_rates", {}).items()]  # older reports have none
    text += f"Peak learning rates: {', '.join(rates)}.\n" if rates else "\n"
    if report["quick"]:
        text += "\n**A quick run: it shows that the code works; its scores are meaningless.**\n"
    for method, reason in report["skipped"].items():
        text += f"\n{NAMES[method]} was skipped: {reason}.\n"
    return text


def _budget(report: Report) -> str:
    key = "cpu_seconds" if report["device"] == "cpu" else "seconds"
    seconds = {m: number(result["cost"][key]) for m, result in report["methods"].items() if m not in PRETRAINED}
    ours, share = seconds.pop(OURS, math.nan), report["budget_share"]
    if all(abs(spent - ours * share) <= BUDGET_TOLERANCE * ours * share for spent in seconds.values()):
        return f"Every other network was trained for {share:g} times as long as S2VNet on the same fold and seed."
    each = ", ".join(f"{NAMES[m]} {spent:.0f}" for m, spent in seconds.items())
    return f"Seconds of training: {NAMES[OURS]} {_f(ours, '.0f')}, {each}."


def _automatic(methods: Methods, tolerance_mm: float) -> str:
    head = ["method", "Dice", f"NSD ({tolerance_mm:g} mm)", "HD95 (mm)", "Dice per run"]
    rows = [
        [
            NAMES[m],
            *(_interval(report["automatic"], s) for s in SCORES),
            " ".join(_f(r["dice"]) for r in report["runs"]),
        ]
        for m, report in methods.items()
        if m != BOX_PROMPTED
    ]
    text = "## Automatic\n\nMean over cases, with the 95 % bootstrap interval over cases in brackets.\n\n"
    text += table(head, rows)
    organs = list(next(iter(methods.values()))["automatic"]["per_class"])
    for score, title in SCORES.items():
        rows = [[o, *(_interval(r["automatic"]["per_class"][o], score) for r in methods.values())] for o in organs]
        text += f"\n### {title} per organ\n\n{table(['organ', *(NAMES[m] for m in methods)], rows)}"
    return text


def _interactive(methods: Methods) -> str:
    played = {NAMES[m]: report for m, report in methods.items() if "interactive" in report}
    boxes = _box_prompted(methods[BOX_PROMPTED]["automatic"]) if BOX_PROMPTED in methods else ""
    if not played:
        return boxes
    text = "## Interactive\n\nOne click per class and round at the largest error; round 0 is automatic.\n"
    text += f"NSD is 0 where the mean Dice of a case is at most {LOW_DICE}, by the CVPR 2025 challenge's rule.\n\n"
    text += "\n".join([_rounds(played), _clicks_needed(played), _click_effects(played)])
    return f"{text}\n{boxes}"


def _box_prompted(scores: Report) -> str:
    text = f"{NAMES[BOX_PROMPTED]}, with the true box of every organ on every slice, far more information than clicks: "
    return text + f"Dice {_interval(scores, 'dice')}, NSD {_interval(scores, 'nsd')}.\n"


def _rounds(played: Methods) -> str:
    rounds = len(next(iter(played.values()))["interactive"]["dice_per_round"])
    tables = []
    for key, area, title in (("dice", "dsc", "Dice"), ("nsd", "nsd", "NSD")):
        rows = [
            [m, *map(_f, report["interactive"][f"{key}_per_round"]), _f(report["interactive"][f"{area}_auc"])]
            for m, report in played.items()
        ]
        tables.append(table([f"{title} by round", *map(str, range(rounds)), "AUC"], rows))
    return "\n".join(tables)


def _clicks_needed(played: Methods) -> str:
    keys = ("noc85", "failed85", "noc90", "failed90", "seconds_per_round")
    rows = [[m, *(_f(report["interactive"][k]) for k in keys)] for m, report in played.items()]
    return table(["method", "clicks to 0.85", "not reached", "clicks to 0.90", "not reached", "s per round"], rows)


def _click_effects(played: Methods) -> str:
    keys = ("prompted", "others", "least_others", "worst")
    rows = [
        [m, *(_f(report["one_at_a_time"][k], "+.4f") for k in keys)]
        for m, report in played.items()
        if "one_at_a_time" in report
    ]
    head = ["method", "clicked organ", "other organs", "lowest mean of others", "worst organ"]
    return f"Change of Dice by a click, one organ after the other.\n\n{table(head, rows)}"


def _uncertainty(methods: Methods) -> str:
    rows = [
        [NAMES[m], _f(report["uncertainty"]["ece"]), _f(report["uncertainty"]["spearman"])]
        for m, report in methods.items()
        if "uncertainty" in report
    ]
    return (
        f"## Uncertainty\n\nExpected calibration error ({BINS} bins, within {MARGIN} voxels of organs), "
        "and Spearman's correlation over slices of mean uncertainty and error rate, mean over cases.\n\n"
        + table(["method", "ECE", "Spearman"], rows)
    )


def _cost(methods: Methods, device: str) -> str:
    head = ["method", "M parameters", "steps", f"training s ({'CPU' if device == 'cpu' else 'wall'})", "peak MiB"]
    head += ["reading s", "encoding s", "decoding s", "network s", "writing s", "s per scan", "peak MiB, segmenting"]
    head += [] if device == "cpu" else ["peak GPU MiB", "peak GPU MiB, segmenting"]
    return f"## Cost\n\n{table(head, [[NAMES[m], *_cost_row(r['cost'], device)] for m, r in methods.items()])}"


def _cost_row(cost: Report, device: str) -> list[str]:
    parts = cost["seconds_per_scan"]
    row = [_f(cost["parameters"] / 1e6, ".2f"), _f(cost["steps"], ".0f")]
    row += [_f(cost["cpu_seconds" if device == "cpu" else "seconds"], ".0f"), _f(cost["peak_mb"], ".0f")]
    row += [_f(parts.get(key)) for key in ("reading", "encoding", "decoding", "network", "writing")]
    row += [_f(sum(parts.values())), _f(cost["segmenting_peak_mb"], ".0f")]
    return row + [_f(cost[k], ".0f") for k in ("gpu_peak_mb", "segmenting_gpu_peak_mb") if device != "cpu"]


def _errors(rates: Report) -> str:
    text = "## Errors of S2VNet by place\n\nDice by distance of a slice from the organ's nearer end, in slices.\n\n"
    text += table(["organ", *END_DISTANCES], [[organ, *map(_f, row)] for organ, row in rates["ends"].items()])
    parts = [f"{n * 100 // PARTS}-{(n + 1) * 100 // PARTS} %" for n in range(PARTS)]
    text += "\nDice by position along the volume, from its first slice.\n\n"
    text += table(["organ", *parts], [[organ, *map(_f, row)] for organ, row in rates["parts"].items()])
    text += (
        "\nShare of slices without an organ that have false positives, and of an organ's voxels that are labelled as "
    )
    text += "the organ of the other side.\n\n"
    rows = [[organ, _f(rate), _f(rates["twins"].get(organ))] for organ, rate in rates["false"].items()]
    return text + table(["organ", "false positive slices", "other side"], rows)


def _f(value: float | None, form: str = ".3f") -> str:
    return "-" if value is None or math.isnan(value) else format(value, form)


def _interval(row: Mapping[str, Any], score: str) -> str:
    low, high = row[f"{score}_ci95"]
    return f"{_f(row[score])} [{_f(low)}, {_f(high)}]"
