"""Figures of a benchmark's report: training losses, Dice by round, Dice per organ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.recipes.recipe import PRETRAINED
from benchmarks.reports.gather import Report, number
from benchmarks.reports.tables import NAMES
from s2vnet.utils.atomic_write import atomic_write


def draw_figures(report: Report, save: Callable[[str, Figure], object]) -> None:
    """Draw the figures and pass each to ``save`` with its name."""
    methods: Mapping[str, Report] = report["methods"]
    save("curves", _loss_curves(methods, report["device"]))
    if any("interactive" in method for method in methods.values()):
        save("rounds", _dice_by_round(methods))
    save("organs", _dice_per_organ(methods))


def _loss_curves(methods: Mapping[str, Report], device: str) -> Figure:
    key = "cpu_seconds" if device == "cpu" else "seconds"
    figure, axes = _figure(6, 3.6)
    for n, (name, method) in enumerate(methods.items()):
        for i, run in enumerate(method["runs"] if name not in PRETRAINED else ()):
            seconds = [row.get(key, row["seconds"]) for row in run["history"]]
            losses = [number(row["loss"]) for row in run["history"]]
            axes.plot(seconds, losses, ".-", color=f"C{n}", alpha=0.7, label=None if i else NAMES[name])
    axes.set(xlabel=f"seconds of training ({device})", ylabel="loss (each method's own)")
    return _with_legend(figure, axes)


def _dice_by_round(methods: Mapping[str, Report]) -> Figure:
    figure, axes = _figure(5, 3.4)
    for name, method in methods.items():
        if "interactive" in method:
            values = [number(v) for v in method["interactive"]["dice_per_round"]]
            axes.plot(values, marker="o", label=NAMES[name])
    axes.set(xlabel="round of clicks (0: automatic)", ylabel="mean Dice")
    return _with_legend(figure, axes)


def _dice_per_organ(methods: Mapping[str, Report]) -> Figure:
    organs = list(next(iter(methods.values()))["automatic"]["per_class"])
    figure, axes = _figure(3 + 0.55 * len(organs), 3.8)
    width = 0.85 / len(methods)
    for n, (name, method) in enumerate(methods.items()):
        values = [number(method["automatic"]["per_class"][organ]["dice"]) for organ in organs]
        axes.bar(np.arange(len(organs)) + n * width, values, width, label=NAMES[name])
    axes.set_xticks(np.arange(len(organs)) + 0.4, organs, rotation=40, ha="right", fontsize=8)
    axes.set(ylabel="Dice", ylim=(0, 1))
    return _with_legend(figure, axes)


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _with_legend(figure: Figure, axes: Axes) -> Figure:
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    return figure


def save_figure(path: Path, figure: Figure) -> None:
    """Write a figure as PNG."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)
