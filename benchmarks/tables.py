"""What a benchmark found, from its stages' files: one report as JSON, as Markdown tables and as plots."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from measures import BINS, END_DISTANCES, PARTS, add, calibration_error, rates
from recipe import OURS, SHIPPED
from s2vnet.evaluation.protocol import InteractiveScores
from s2vnet.evaluation.report import LOW_DICE, automatic_report, interactive_report, mean, table
from s2vnet.metrics.segmentation import ClassMetrics
from s2vnet.utils.atomic_write import atomic_write

BOXED = "litemedsam"
UNTRAINED = (BOXED, SHIPPED)
"""Methods that a benchmark does not train."""
NAMES = {
    "s2vnet": "S2VNet",
    "unet2d": "2D U-Net",
    "unet3d": "3D U-Net",
    "nnunet2d": "nnU-Net's 2D network",
    "nnunet3d": "nnU-Net's 3D network",
    "unetr": "UNETR",
    "clicknet": "click channels, 3D (DeepEdit, RITM)",
    "litemedsam": "LiteMedSAM, true box per slice",
    "shipped": "S2VNet as it is shipped",
}
SLACK = 0.01
"""Share by which an opponent's seconds may differ from its budget, for a step ends when it ends."""
MOST_ROWS = 100
"""Rows of a training's history that a report keeps."""

Found = dict[str, Any]


def gather(folders: Sequence[Path], class_names: Mapping[int, str], rounds: int) -> Found:
    """Everything about one method, from the folders of its folds and seeds.

    A case's automatic scores are averaged over seeds first, so that intervals are over cases alone. `class_names`
    leaves background out.
    """
    scores = {folder: _read_all(folder / "scores") for folder in folders}
    cases = sorted({name for found in scores.values() for name in found})
    per_case = {name: [found[name] for found in scores.values() if name in found] for name in cases}
    averaged = {name: _averaged([one["metrics"] for one in found]) for name, found in per_case.items()}
    every = {f"{folder.parent.name}/{name}": one for folder, found in scores.items() for name, one in found.items()}
    result: Found = automatic_report(averaged, class_names)
    played = {name: _played(one["played"]) for name, one in every.items() if "played" in one}
    if played:
        result |= interactive_report(played, class_names, rounds)
        result["interactive"]["clicks_per_case"] = float(np.mean([sum(one["clicks"]) for one in every.values()]))
    if all("one_at_a_time" in one for one in every.values()):
        result["one_at_a_time"] = _spoilt([one["one_at_a_time"] for one in every.values()], class_names)
    if all("calibration" in one for one in every.values()):
        bins = add([one["calibration"] for one in every.values()])
        ranks = [_number(one["spearman"]) for one in every.values()]
        result["uncertainty"] = {"ece": calibration_error(bins), "bins": bins, "spearman": mean(ranks)}
    result["failures"] = rates(add([one["failures"] for one in every.values()]))
    trained = [json.loads((folder / "trained.json").read_text()) for folder in folders]
    predicted = [one for folder in folders for one in _read_all(folder / "predicted").values()]
    result["hardware"] = sorted({one.get("hardware", "hardware not noted") for one in predicted})
    result["hardware"] += sorted({t["hardware"] for t in trained if "hardware" in t} - {*result["hardware"]})
    parts = list(predicted[0]["seconds"])
    result["cost"] = {
        **{
            key: mean([_number(t.get(key)) for t in trained])
            for key in ("parameters", "steps", "seconds", "cpu_seconds", "peak_mb", "gpu_peak_mb")
        },
        "seconds_per_scan": {part: mean([one["seconds"][part] for one in predicted]) for part in parts},
        "segmenting_peak_mb": max(one["peak_mb"] for one in predicted),
        "segmenting_gpu_peak_mb": max(one.get("gpu_peak_mb", math.nan) for one in predicted),
    }
    result["runs"] = [
        {
            "run": folder.parent.name,
            "dice": mean([_number(m["dice"]) for one in found.values() for m in one["metrics"].values()]),
            "history": t["history"][:: -(-len(t["history"]) // MOST_ROWS) or 1],
        }
        for (folder, found), t in zip(scores.items(), trained, strict=True)
    ]
    return result


def extreme_cases(method: Found) -> dict[str, str]:
    """The best, median and worst case by mean Dice."""
    rows = sorted(method["automatic"]["cases"], key=lambda row: _number(row["dice"]))
    return {"best": rows[-1]["case"], "median": rows[len(rows) // 2]["case"], "worst": rows[0]["case"]}


def markdown(report: Found, picture: Callable[[str], str | None] = lambda name: None) -> str:
    """All tables; `picture` gives the path of a picture, if there is one."""
    methods: Mapping[str, Found] = report["methods"]
    parts = [f"# {report['title']}\n", _about(report)]
    head = ["method", "Dice", f"NSD ({report['tolerance_mm']:g} mm)", "HD95 (mm)", "per run"]
    rows = [
        [NAMES[m], *(_interval(f["automatic"], s) for s in ("dice", "nsd", "hd95")), _runs(f["runs"])]
        for m, f in methods.items()
        if m != BOXED
    ]
    parts.append("## Automatic\n\nMean over cases, in brackets the 95 % bootstrap interval over cases.\n")
    parts.append(table(head, rows))
    columns = [NAMES[m] for m in methods]
    for score, title in (("dice", "Dice"), ("nsd", "NSD"), ("hd95", "HD95 (mm)")):
        organs = list(next(iter(methods.values()))["automatic"]["per_class"])
        rows = [[o, *(_interval(f["automatic"]["per_class"][o], score) for f in methods.values())] for o in organs]
        parts.append(f"### {title} per organ\n\n{table(['organ', *columns], rows)}")
    parts += [_interactive(methods), _uncertainty(methods), _cost(methods, report["device"])]
    if OURS in methods:
        parts.append(_failures(methods[OURS]["failures"]))
    for name, caption in PICTURES.items():
        path = picture(name)
        if path is not None:
            parts.append(f"![{caption}]({path})\n")
    return "\n".join(parts)


def _about(report: Found) -> str:
    cases, seeds = len(next(iter(report["methods"].values()))["automatic"]["cases"]), report["seeds"]
    text = f"Scored: {report['scored']}; cases: {cases}; seeds: {', '.join(map(str, seeds))}. "
    text += f"`{report['command']}`, {report['date']}, {report['hardware']}. {_budget(report)} "
    if SHIPPED in report["methods"]:
        text += f"How {NAMES[SHIPPED]} was trained is in its model card. "
    rates = [f"{NAMES[m]} {rate:g}" for m, rate in report.get("learning_rates", {}).items()]  # older reports have none
    text += f"Peak learning rates: {', '.join(rates)}.\n" if rates else "\n"
    if report["quick"]:
        text += "\n**A quick run: it shows that the code works; its figures mean nothing.**\n"
    for method, why in report["skipped"].items():
        text += f"\n{NAMES[method]} was skipped: {why}.\n"
    return text


def _budget(report: Found) -> str:
    key = "cpu_seconds" if report["device"] == "cpu" else "seconds"
    seconds = {m: _number(f["cost"][key]) for m, f in report["methods"].items() if m not in UNTRAINED}
    ours, share = seconds.pop(OURS, math.nan), report["budget_share"]
    if all(abs(given - ours * share) <= SLACK * ours * share for given in seconds.values()):
        return f"Every opponent had the seconds that ours took on the same fold and seed, times {share:g}."
    each = ", ".join(f"{NAMES[m]} {given:.0f}" for m, given in seconds.items())
    return f"Seconds of training: {NAMES[OURS]} {_f(ours, '.0f')}, {each}."


def _interactive(methods: Mapping[str, Found]) -> str:
    played = {NAMES[m]: f for m, f in methods.items() if "interactive" in f}
    boxed = ""
    if BOXED in methods:
        scores = methods[BOXED]["automatic"]
        boxed = f"{NAMES[BOXED]}: given every organ's true box on every slice, much more than clicks tell, Dice "
        boxed += f"{_interval(scores, 'dice')}, NSD {_interval(scores, 'nsd')}.\n"
    if not played:
        return boxed
    rounds = len(next(iter(played.values()))["interactive"]["dice_per_round"])
    text = "## Interactive\n\nOne click per class and round at the largest error; round 0 is automatic.\n"
    text += f"NSD is 0 where the mean Dice of a case is at most {LOW_DICE}, by the CVPR 2025 challenge's rule.\n\n"
    for key, area, title in (("dice", "dsc", "Dice"), ("nsd", "nsd", "NSD")):
        rows = [
            [m, *map(_f, f["interactive"][f"{key}_per_round"]), _f(f["interactive"][f"{area}_auc"])]
            for m, f in played.items()
        ]
        text += table([f"{title} by round", *map(str, range(rounds)), "AUC"], rows) + "\n"
    needed = ("noc85", "failed85", "noc90", "failed90", "seconds_per_round")
    rows = [[m, *(_f(f["interactive"][k]) for k in needed)] for m, f in played.items()]
    head = ["method", "clicks to 0.85", "never", "clicks to 0.90", "never", "s per round"]
    text += table(head, rows) + "\nOne organ clicked at a time, one after the other: change of Dice by a click.\n\n"
    head = ["method", "organ clicked", "other organs", "least mean of others", "worst organ"]
    keys = ("prompted", "others", "least_others", "worst")
    rows = [[m, *(_f(f["one_at_a_time"][k], "+.4f") for k in keys)] for m, f in played.items() if "one_at_a_time" in f]
    return f"{text}{table(head, rows)}\n{boxed}"


def _uncertainty(methods: Mapping[str, Found]) -> str:
    rows = [
        [NAMES[m], _f(f["uncertainty"]["ece"]), _f(f["uncertainty"]["spearman"])]
        for m, f in methods.items()
        if "uncertainty" in f
    ]
    return (
        f"## Uncertainty\n\nExpected calibration error ({BINS} bins, within 3 voxels of predicted or true organs), and "
        "Spearman's correlation over slices of mean uncertainty and share of wrong voxels, mean over cases.\n\n"
        + table(["method", "ECE", "Spearman"], rows)
    )


def _cost(methods: Mapping[str, Found], device: str) -> str:
    head = ["method", "M parameters", "steps", f"training s ({'CPU' if device == 'cpu' else 'wall'})", "peak MiB"]
    rows = []
    for m, f in methods.items():
        cost, parts = f["cost"], f["cost"]["seconds_per_scan"]
        network = [parts.get(key, math.nan) for key in ("encoding", "decoding")]
        rows.append(
            [
                *(NAMES[m], _f(cost["parameters"] / 1e6, ".2f"), _f(cost["steps"], ".0f")),
                *(_f(cost["cpu_seconds" if device == "cpu" else "seconds"], ".0f"), _f(cost["peak_mb"], ".0f")),
                *(_f(parts["reading"]), *map(_f, network), _f(parts.get("network")), _f(parts["writing"])),
                *(_f(sum(parts.values())), _f(cost["segmenting_peak_mb"], ".0f")),
                *(_f(cost[key], ".0f") for key in ("gpu_peak_mb", "segmenting_gpu_peak_mb") if device != "cpu"),
            ]
        )
    head += ["reading s", "encoding s", "decoding s", "network s", "writing s", "s per scan", "peak MiB, segmenting"]
    head += [] if device == "cpu" else ["peak GPU MiB", "peak GPU MiB, segmenting"]
    return f"## Cost\n\n{table(head, rows)}"


def _failures(found: Found) -> str:
    text = "## Where ours fails\n\nDice by slices from an organ's nearer end.\n\n"
    text += table(["organ", *END_DISTANCES], [[o, *map(_f, row)] for o, row in found["ends"].items()])
    parts = [f"{n * 100 // PARTS}-{(n + 1) * 100 // PARTS} %" for n in range(PARTS)]
    text += "\nDice by place along the volume, from its first slice.\n\n"
    text += table(["organ", *parts], [[o, *map(_f, row)] for o, row in found["parts"].items()])
    text += "\nSlices without an organ on which some of it was found, and voxels of an organ called its twin.\n\n"
    rows = [[o, _f(v), _f(found["twins"].get(o))] for o, v in found["false"].items()]
    return text + table(["organ", "false slices", "called its twin"], rows)


def plots(report: Found, save: Callable[[str, Figure], None]) -> None:
    """Learning curves, Dice by round and bars per organ; each is handed to `save` with its name."""
    methods: Mapping[str, Found] = report["methods"]
    key = "cpu_seconds" if report["device"] == "cpu" else "seconds"
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for n, (m, f) in enumerate(methods.items()):
        for number, run in enumerate(f["runs"] if m not in UNTRAINED else ()):
            seconds = [row.get(key, row["seconds"]) for row in run["history"]]
            values = [_number(row["loss"]) for row in run["history"]]
            axes.plot(seconds, values, ".-", color=f"C{n}", alpha=0.7, label=None if number else NAMES[m])
    axes.set(xlabel=f"seconds of training ({report['device']})", ylabel="loss (each method's own)")
    _finish(axes)
    save("curves", figure)
    played = {m: f["interactive"]["dice_per_round"] for m, f in methods.items() if "interactive" in f}
    if played:
        figure = Figure(figsize=(5, 3.4), layout="constrained")
        axes = figure.subplots()
        for m, values in played.items():
            axes.plot([_number(v) for v in values], marker="o", label=NAMES[m])
        axes.set(xlabel="round of clicks (0: automatic)", ylabel="mean Dice")
        _finish(axes)
        save("rounds", figure)
    organs = list(next(iter(methods.values()))["automatic"]["per_class"])
    figure = Figure(figsize=(3 + 0.55 * len(organs), 3.8), layout="constrained")
    axes = figure.subplots()
    width = 0.85 / len(methods)
    for n, (m, f) in enumerate(methods.items()):
        values = [_number(f["automatic"]["per_class"][o]["dice"]) for o in organs]
        axes.bar(np.arange(len(organs)) + n * width, values, width, label=NAMES[m])
    axes.set_xticks(np.arange(len(organs)) + 0.4, organs, rotation=40, ha="right", fontsize=8)
    axes.set(ylabel="Dice", ylim=(0, 1))
    _finish(axes)
    save("organs", figure)


PICTURES = {
    "curves": "Learning curves",
    "rounds": "Dice by round",
    "organs": "Dice per organ",
    "best": "Best case",
    "median": "Median case",
    "worst": "Worst case",
}
"""Pictures of a report, by name."""


def save_figure(path: Path, figure: Figure) -> None:
    """Write a plot as PNG."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _finish(axes: Any) -> None:
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def _read_all(folder: Path) -> dict[str, Found]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def _averaged(several: Sequence[Mapping[str, Mapping[str, float | None]]]) -> dict[int, ClassMetrics]:
    """A case's metrics by class, averaged over seeds."""
    scores = ("dice", "nsd", "hd95")
    return {int(k): ClassMetrics(*(mean([_number(one[k][s]) for one in several]) for s in scores)) for k in several[0]}


def _played(content: Found) -> InteractiveScores:
    def scores(key: str) -> list[dict[int, float]]:
        return [{int(k): _number(value) for k, value in found.items()} for found in content[key]]

    return InteractiveScores(scores("dice"), scores("nsd"), [], content["seconds_per_round"])


def _spoilt(cases: Sequence[Sequence[Mapping[str, float]]], class_names: Mapping[int, str]) -> Found:
    """Means over the clicks of all cases; per class, and the least mean that the others had by any class."""
    rows = [row for case in cases for row in case]
    per_class = {}
    for k, name in class_names.items():
        mine = [row for row in rows if row["class"] == k]
        if mine:
            per_class[name] = {
                "prompted": mean([row["prompted"] for row in mine]),
                "others": mean([row["others"] for row in mine if "others" in row]),
            }
    others = [row for row in rows if "others" in row]
    means = [row["others"] for row in per_class.values()]
    return {
        "prompted": mean([row["prompted"] for row in rows]),
        "others": mean([row["others"] for row in others]),
        "least_others": min((v for v in means if not math.isnan(v)), default=math.nan),
        "worst": min((row["worst"] for row in others), default=math.nan),
        "per_class": per_class,
    }


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _f(value: float | None, form: str = ".3f") -> str:
    return "-" if value is None or math.isnan(value) else format(value, form)


def _interval(row: Mapping[str, Any], score: str) -> str:
    low, high = row[f"{score}_ci95"]
    return f"{_f(row[score])} [{_f(low)}, {_f(high)}]"


def _runs(runs: Sequence[Found]) -> str:
    return " ".join(_f(run["dice"]) for run in runs)
