"""Run a benchmark: plan, train, predict, score, report.

    python -m benchmarks.run phantom -o runs/phantom --quick
    python -m benchmarks.run btcv-downsampled --data ../shared/data -o runs/btcv
    python -m benchmarks.run btcv-downsampled --data ../shared/data -o runs/btcv --test

Each stage writes its result to the output folder and is skipped if it is there; run the command again to resume. The
result is `report.json`, `report.md` and pictures. Test cases are only used with `--test`; their report is in `test/`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads, see s2vnet.cli.app

import typer

from benchmarks.pipeline.report import write_report
from benchmarks.pipeline.runs import Run, unavailable_reason
from benchmarks.pipeline.setup import prepare
from benchmarks.pipeline.stages import predict_stage, run_stage, score_stage, train_stage
from benchmarks.recipes.recipe import FINAL, OURS, PRETRAINED, Fold, Recipe, read_recipe, select
from s2vnet.errors import InputError, S2VNetError
from s2vnet.model.checkpoint import choose_device


def run_benchmark(arguments: argparse.Namespace) -> None:
    """Run every stage that is not finished, then write the report.

    Raises:
        InputError: an invalid option, recipe or dataset, or a stage that failed after it printed its reason.
        KeyboardInterrupt: interrupted, after the running stage has saved its state.
    """
    recipe = read_recipe(arguments.recipe)
    recipe = recipe.quick() if arguments.quick else recipe
    methods = select(arguments.methods, recipe.methods, "method")
    seeds = select(arguments.seeds, recipe.seeds, "seed")
    folds = _parse_folds(arguments, recipe)
    device = choose_device(arguments.device).type
    reasons = {method: unavailable_reason(method, recipe, folds) for method in methods}
    skipped = {method: reason for method, reason in reasons.items() if reason}
    data = prepare(recipe, arguments.data, arguments.output, folds, device)
    runs = [
        Run(recipe, data, arguments.output, fold, seed, method, device, arguments.budget)
        for fold in folds
        for seed in seeds
        for method in methods
        if method not in skipped
    ]
    if not runs:
        raise InputError(f"nothing to run: {'; '.join(f'{method} {reason}' for method, reason in skipped.items())}")
    _require_budgets(runs)
    _run_stages(runs)
    typer.echo(str(write_report(runs, skipped, arguments.quick)))


def _parse_folds(arguments: argparse.Namespace, recipe: Recipe) -> list[Fold]:
    names = arguments.folds or ([FINAL] if arguments.test else [str(fold) for fold in recipe.folds])
    invalid = [name for name in names if name != FINAL and not name.isdecimal()]
    if invalid:
        raise InputError(f"no fold {invalid[0]!r}; folds are numbers, or {FINAL} with --test")
    folds: list[Fold] = list(dict.fromkeys("final" if name == FINAL else int(name) for name in names))
    if FINAL in folds and len(folds) > 1:
        raise InputError(f"fold {FINAL} cannot be combined with other folds: they have separate reports")
    if FINAL in folds and not arguments.test:
        raise InputError(f"fold {FINAL} scores the test cases; add --test once every choice has been made")
    if arguments.test and folds != [FINAL]:
        raise InputError(f"--test scores the test cases, which are fold {FINAL}; drop --folds, or --test")
    return folds


def _require_budgets(runs: Sequence[Run]) -> None:
    """Refuse a network whose budget is unknown, since s2vnet has not been trained."""
    methods = {run.method for run in runs}
    for run in runs:
        known = run.budget is not None or run.method in PRETRAINED or OURS in methods
        if not known and not replace(run, method=OURS).trained:
            raise InputError(f"run {OURS} first: its training time is the budget of {run.method}; or add --budget")


def _run_stages(runs: Sequence[Run]) -> None:
    for run in sorted(runs, key=lambda run: run.method != OURS):  # s2vnet first: its time is the others' budget
        if not run.trained:
            _run_in_subprocess(train_stage, run)
        if run.pending_cases("predicted"):
            _run_in_subprocess(predict_stage, run)
        if run.pending_cases("scores"):
            _run_in_subprocess(score_stage, run)


def _run_in_subprocess(stage: Callable[[Run], None], run: Run) -> None:
    """Run a stage in a process of its own, so that its peak memory is measured separately."""
    typer.echo(f"{run.method}, fold {run.fold}, seed {run.seed}: {stage.__name__.removesuffix('_stage')}", err=True)
    process = CONTEXT.Process(target=run_stage, args=(stage, run))
    process.start()
    try:
        process.join()
    except KeyboardInterrupt:
        process.terminate()
        process.join()
        raise
    if process.exitcode:
        reason = "interrupted or out of memory" if process.exitcode < 0 else "see above"
        name = stage.__name__.replace("_", " ")
        raise InputError(f"{run.method}, {name} failed ({reason}); run the command again to resume")


def _positive_seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="name in benchmarks/recipes, or file")
    parser.add_argument("--data", type=Path, help="folder that holds the recipe's dataset")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="test the code in a minute; the scores are meaningless")
    parser.add_argument("--methods", nargs="+", help="some of the recipe's")
    parser.add_argument("--folds", nargs="+", help=f"numbers, or {FINAL}")
    parser.add_argument("--seeds", nargs="+", help="some of the recipe's")
    parser.add_argument(
        "--budget",
        type=_positive_seconds,
        help="seconds of training of every other network, to train it before s2vnet is; default: s2vnet's",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--test", action="store_true", help=f"score the test cases (fold {FINAL})")
    return parser


def main() -> None:
    """Run the command; an expected error becomes one line and exit code 1, an interrupt exit code 130."""
    arguments = _parser().parse_args()

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        run_benchmark(arguments)
    except S2VNetError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("interrupted; run the command again to resume", err=True)
        sys.exit(130)


CONTEXT = multiprocessing.get_context("forkserver")
"""Each stage is forked from a server that has imported the slow libraries."""
CONTEXT.set_forkserver_preload(
    [
        "s2vnet.training.trainer",
        "s2vnet.training.logging",
        "s2vnet.interactive.session",
        "monai.networks.nets.dynunet",
        "monai.networks.nets.unetr",
        "monai.metrics.surface_dice",
        "monai.metrics.hausdorff_distance",
    ]
)

if __name__ == "__main__":
    main()
