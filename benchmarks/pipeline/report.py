"""Write the report of finished runs: `report.json`, `report.md` and pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.measures.environment import provenance, write_json
from benchmarks.pipeline.runs import Run
from benchmarks.recipes.recipe import FINAL, OURS, PRETRAINED, Method
from benchmarks.reports.figures import draw_figures, save_figure
from benchmarks.reports.gather import Report, extreme_cases, gather
from benchmarks.reports.tables import markdown
from s2vnet.data.dataset import read_dataset
from s2vnet.data.plan import Plan
from s2vnet.io.files import read_labels
from s2vnet.utils.atomic_write import atomic_write
from s2vnet.visualization.overlays import write_overlay


def write_report(runs: Sequence[Run], skipped: Mapping[Method, str], quick: bool) -> Path:
    """Write the report of runs, all of a benchmark's folds or all of its test cases.

    Args:
        runs: finished.
        skipped: reasons of methods that were not run.
        quick: whether the recipe was shortened.

    Returns:
        Path of the Markdown file.
    """
    out = runs[0].out / "test" if runs[0].fold == FINAL else runs[0].out
    out.mkdir(exist_ok=True)
    folders: dict[Method, list[Path]] = {}
    for run in runs:
        folders.setdefault(run.method, []).append(run.folder)
    plan = runs[0].plan
    write_json(out / "report.json", _report(runs, folders, plan) | {"skipped": dict(skipped), "quick": quick})
    report = json.loads((out / "report.json").read_text())
    pictures: dict[str, str] = {}  # of this call; the folder may have those of other methods

    def save(name: str, figure: Figure) -> None:
        pictures[name] = f"{name}.png"
        save_figure(out / pictures[name], figure)

    draw_figures(report, save)
    if OURS in folders:
        pictures |= _draw_extreme_cases(runs[0], folders[OURS], report["methods"][OURS], out)
    with atomic_write(out / "report.md") as temporary:
        temporary.write_text(markdown(report, pictures))
    return out / "report.md"


def _report(runs: Sequence[Run], folders: Mapping[Method, Sequence[Path]], plan: Plan) -> Report:
    recipe = runs[0].recipe
    classes = {value: name for name, value in plan.labels.items() if value}
    methods = {method: gather(paths, classes, recipe.rounds) for method, paths in folders.items()}
    folds = ", ".join(sorted({str(run.fold) for run in runs}))
    trained = [method for method in methods if method not in PRETRAINED]
    return {
        "title": recipe.title,
        **provenance("; ".join(sorted({name for method in methods.values() for name in method["hardware"]}))),
        "device": runs[0].device,
        "scored": "test cases" if runs[0].fold == FINAL else f"folds {folds}",
        "seeds": sorted({run.seed for run in runs}),
        "recipe": recipe.model_dump(mode="json"),
        "tolerance_mm": recipe.tolerance_mm,
        "budget_share": recipe.budget_share,
        "learning_rates": {method: recipe.train_config(plan, 0, method).learning_rate for method in trained},
        "methods": methods,
    }


def _draw_extreme_cases(run: Run, folders: Sequence[Path], report: Report, out: Path) -> dict[str, str]:
    """Draw truth and automatic labels of the best, median and worst case; return the pictures' file names."""
    dataset, plan = read_dataset(run.data), run.plan
    classes = {value: name for name, value in plan.labels.items() if value}
    pictures = {}
    for kind, name in extreme_cases(report).items():
        volume, truth = dataset.read(dataset.case(name))
        folder = next(f for f in folders if (f / "scores" / f"{name}.json").exists())
        columns: dict[str, Any] = {"truth": truth, "automatic": read_labels(folder / "labels" / f"{name}.nii.gz")}
        pictures[kind] = f"{kind}.png"
        write_overlay(out / pictures[kind], volume, columns, classes, plan.axis, channel=plan.channels[0])
    return pictures
