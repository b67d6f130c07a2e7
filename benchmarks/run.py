"""From a dataset to the finished tables: plan, train, predict, score.

    python benchmarks/run.py phantom -o runs/phantom --quick
    python benchmarks/run.py btcv-downsampled --data ../shared/data -o runs/btcv
    python benchmarks/run.py btcv-downsampled --data ../shared/data -o runs/btcv --test

Every stage leaves its result in the output folder and is skipped when it is there, so the same command goes on after
an interrupt. The result: `report.json`, `report.md` and pictures. Test cases are opened by `--test` alone; their report
lies in `test/`.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads, see s2vnet.cli.app

import typer
from matplotlib.figure import Figure

from phantom import write_dataset
from recipe import FINAL, OURS, Fold, Recipe, chosen, read_recipe
from s2vnet.cli.console import make_folder
from s2vnet.data.dataset import Dataset, read_dataset
from s2vnet.data.fingerprint import extract_fingerprint
from s2vnet.data.plan import make_plan, read_plan, save_json
from s2vnet.errors import InputError, S2VNetError
from s2vnet.io.files import read_labels
from s2vnet.model.checkpoint import choose_device
from s2vnet.utils.atomic_write import atomic_write, require_writable
from s2vnet.visualization.overlays import write_overlay
from stages import Run, guarded, missing, predict_stage, score_stage, train_stage, write_json
from tables import UNTRAINED, extreme_cases, gather, markdown, plots, save_figure


def run(arguments: argparse.Namespace) -> None:
    """Everything that is not done yet, then the report.

    Raises:
        InputError: an option, recipe or dataset that is not what it has to be; also when a stage failed, which has
            said why.
        KeyboardInterrupt: interrupted, after what was at work has been saved.
    """
    recipe = read_recipe(arguments.recipe)
    recipe = recipe.quick() if arguments.quick else recipe
    out: Path = arguments.output
    methods = chosen(arguments.methods, recipe.methods, "method")
    seeds = chosen(arguments.seeds, recipe.seeds, "seed")
    wanted = arguments.folds or ([FINAL] if arguments.test else [str(fold) for fold in recipe.folds])
    wrong = [fold for fold in wanted if fold != FINAL and not fold.isdecimal()]
    if wrong:
        raise InputError(f"no fold {wrong[0]!r}; folds are numbers, or {FINAL} with --test")
    folds = list(dict.fromkeys(fold if fold == FINAL else int(fold) for fold in wanted))
    if FINAL in folds and len(folds) > 1:
        raise InputError(f"fold {FINAL} stands alone: its figures belong in no row with those of other folds")
    if FINAL in folds and not arguments.test:
        raise InputError(f"fold {FINAL} opens the test cases; add --test once every choice has been made")
    if arguments.test and folds != [FINAL]:
        raise InputError(f"--test opens the test cases, which fold {FINAL} scores; drop --folds, or --test")
    device = choose_device(arguments.device).type
    skipped = {method: why for method in methods if (why := missing(method, recipe, folds))}
    data = _data(recipe, arguments.data, out)
    if recipe.phantom is None:  # before anything is written
        _require_folds(recipe, read_dataset(data), folds)
    make_folder(out)
    require_writable(out)
    _keep_recipe(recipe, out)
    if recipe.phantom is not None and not (data / "dataset.json").exists():
        write_dataset(data, **recipe.phantom.model_dump())
    dataset = read_dataset(data)
    _require_folds(recipe, dataset, folds)
    _keep_inputs(dataset, device, out)
    _plan(recipe, data, out)
    runs = [
        Run(recipe, data, out, fold, seed, method, device, arguments.budget)
        for fold in folds
        for seed in seeds
        for method in methods
        if method not in skipped
    ]
    if not runs:
        raise InputError(f"nothing to run: {'; '.join(f'{method} {why}' for method, why in skipped.items())}")
    for one in runs if arguments.budget is None else ():
        if one.method not in UNTRAINED and OURS not in methods and not replace(one, method=OURS).trained:
            raise InputError(f"run {OURS} first: the seconds that it takes are what {one.method} gets; or --budget")
    for one in sorted(runs, key=lambda r: r.method != OURS):  # ours first: its seconds are the others' budget
        if not one.trained:
            _apart(train_stage, one)
        if one.todo("predicted"):
            _apart(predict_stage, one)
        if one.todo("scores"):
            _apart(score_stage, one)
    _report(arguments, recipe, runs, skipped, device)


def _data(recipe: Recipe, given: Path | None, out: Path) -> Path:
    """The dataset's folder."""
    if recipe.phantom is not None:
        return out / recipe.dataset
    if given is None:
        raise InputError(f"--data: name the folder that holds {recipe.dataset}")
    named = recipe.dataset in (given.absolute().name, given.resolve().name)
    found = given if named else given / recipe.dataset
    if not (found / "dataset.json").is_file():
        raise InputError(f"{given}: no {recipe.dataset} there; see `s2vnet import`")
    return found


def _require_folds(recipe: Recipe, dataset: Dataset, folds: Sequence[Fold]) -> None:
    """Refuse a fold that there is not."""
    for fold in folds:
        recipe.cases(dataset, fold)


def _keep_recipe(recipe: Recipe, out: Path) -> None:
    """Note what the folder is for; refuse one that is for something else. More methods, folds and seeds may come."""
    path, free = out / "recipe.json", {"methods", "folds", "seeds", "title"}
    text = recipe.model_dump_json(indent=2) + "\n"
    if path.exists():
        before, now = _noted(path), json.loads(text)
        other = [key for key in now if key not in free and before.get(key) != now[key]]
        if other:
            raise InputError(f"{out} was made by another recipe ({', '.join(other)}); choose another folder")
    with atomic_write(path) as temporary:
        temporary.write_text(text)


def _keep_inputs(dataset: Dataset, device: str, out: Path) -> None:
    """Note of which dataset and device the folder's figures are; refuse another, whose figures would mix with them."""
    path = out / "inputs.json"
    cases = [[case.name for case in part] for part in (dataset.training, dataset.test)]
    now = {
        "dataset": dataset.name,
        "labels": dict(dataset.labels),
        "cases": hashlib.sha256(json.dumps(cases).encode()).hexdigest(),
        "device": device,
    }
    if not path.exists():
        write_json(path, now)
    before = _noted(path)
    other = [key for key in now if before.get(key) != now[key]]
    if other == ["device"]:
        raise InputError(f"{out} was made on {before.get('device')}, not {device}; choose another folder, or --device")
    if other:
        raise InputError(f"{out} was made with another dataset ({', '.join(other)}); choose another folder")


def _noted(path: Path) -> dict[str, Any]:
    """What an earlier call noted. Raises InputError where it cannot be told any more."""
    try:
        content = json.loads(path.read_text())
        if isinstance(content, dict):
            return content
        reason = "no JSON object"
    except OSError as error:
        reason = str(error.strerror)
    except ValueError as error:
        reason = str(error)
    raise InputError(f"{path}: damaged ({reason}); what the folder is for cannot be told: choose another")


def _plan(recipe: Recipe, data: Path, out: Path) -> None:
    path = out / "plan.json"
    if not path.exists():
        plan = recipe.plan_from(make_plan(extract_fingerprint(read_dataset(data))))
        recipe.train_config(plan, 0)
        recipe.model_config_of(plan)
        save_json(plan, path)


def _apart(stage: Any, one: Run) -> None:
    """Run a stage in a process of its own, so that its peak memory can be told."""
    typer.echo(f"{one.method}, fold {one.fold}, seed {one.seed}: {stage.__name__.removesuffix('_stage')}", err=True)
    process = CONTEXT.Process(target=guarded, args=(stage, one))
    process.start()
    try:
        process.join()
    except KeyboardInterrupt:
        process.terminate()
        process.join()
        raise
    if process.exitcode:
        why = "interrupted or out of memory" if process.exitcode < 0 else "see above"
        raise InputError(f"{one.method}, {stage.__name__.replace('_', ' ')} failed ({why}); the same command goes on")


def _report(arguments: argparse.Namespace, recipe: Recipe, runs: Sequence[Run], skipped: Any, device: str) -> None:
    plan = read_plan(arguments.output / "plan.json")
    out = arguments.output / "test" if runs[0].fold == FINAL else arguments.output
    out.mkdir(exist_ok=True)
    by_method: dict[str, list[Path]] = {}
    classes = {value: name for name, value in plan.labels.items() if value}
    for one in runs:
        by_method.setdefault(one.method, []).append(one.folder)
    methods = {method: gather(folders, classes, recipe.rounds) for method, folders in by_method.items()}
    report: dict[str, Any] = {
        "title": recipe.title,
        "command": "python benchmarks/run.py " + " ".join(sys.argv[1:]),
        "date": datetime.date.today().isoformat(),
        "hardware": "; ".join(sorted({name for found in methods.values() for name in found["hardware"]})),
        "device": device,
        "quick": arguments.quick,
        "scored": f"folds {', '.join(sorted({str(one.fold) for one in runs}))}"
        if runs[0].fold != FINAL
        else "test cases",
        "seeds": sorted({one.seed for one in runs}),
        "recipe": recipe.model_dump(mode="json"),
        "tolerance_mm": recipe.tolerance_mm,
        "budget_share": recipe.budget_share,
        "learning_rates": {m: recipe.train_config(plan, 0, m).learning_rate for m in methods if m not in UNTRAINED},
        "skipped": skipped,
        "methods": methods,
    }
    write_json(out / "report.json", report)
    report = json.loads((out / "report.json").read_text())  # as whoever reads it later will find it
    pictures: dict[
        str, str
    ] = {}  # of this call: those of an earlier one, of other methods perhaps, may lie there still

    def keep(name: str, figure: Figure) -> None:
        pictures[name] = f"{name}.png"
        save_figure(out / pictures[name], figure)

    plots(report, keep)
    if OURS in by_method:
        dataset = read_dataset(runs[0].data)
        for kind, name in extreme_cases(report["methods"][OURS]).items():
            volume, truth = dataset.read(dataset.case(name))
            folder = next(f for f in by_method[OURS] if (f / "scores" / f"{name}.json").exists())
            columns = {"truth": truth, "automatic": read_labels(folder / "labels" / f"{name}.nii.gz")}
            pictures[kind] = f"{kind}.png"
            write_overlay(out / pictures[kind], volume, columns, classes, plan.axis)  # type: ignore[arg-type]
    with atomic_write(out / "report.md") as temporary:
        temporary.write_text(markdown(report, pictures.get))
    typer.echo(f"{out / 'report.md'}")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError
    return value


def main() -> None:
    """Any expected error becomes one line and exit code 1; an interrupt 130."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="name in benchmarks/recipes, or file")
    parser.add_argument("--data", type=Path, help="folder that holds the recipe's dataset")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="try the code in a minute; the figures mean nothing")
    parser.add_argument("--methods", nargs="+", help="some of the recipe's")
    parser.add_argument("--folds", nargs="+", help=f"numbers, or {FINAL}")
    parser.add_argument("--seeds", nargs="+", help="some of the recipe's")
    parser.add_argument(
        "--budget", type=_seconds, help="seconds of each opponent's training, to run it beside ours; default: ours'"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--test", action="store_true", help=f"open the test cases (fold {FINAL} unless folds are named)"
    )
    arguments = parser.parse_args()

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        run(arguments)
    except S2VNetError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on", err=True)
        sys.exit(130)


CONTEXT = multiprocessing.get_context("forkserver")
"""Each stage starts from a server that has loaded the slow libraries once and done nothing with them."""
CONTEXT.set_forkserver_preload(
    [
        *(
            "s2vnet.training.trainer",
            "s2vnet.training.logging",
            "s2vnet.interactive.session",
            "monai.networks.nets.dynunet",
        ),
        *("monai.networks.nets.unetr", "monai.metrics.surface_dice", "monai.metrics.hausdorff_distance"),
    ]
)

if __name__ == "__main__":
    main()
