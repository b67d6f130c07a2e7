"""Prepare a benchmark's output folder: dataset, plan, and records that later calls are checked against."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measures.environment import write_json
from benchmarks.recipes.phantom import write_dataset
from benchmarks.recipes.recipe import Fold, Recipe
from s2vnet.data.dataset import Dataset, read_dataset
from s2vnet.data.fingerprint import extract_fingerprint
from s2vnet.data.plan import make_plan, save_json
from s2vnet.errors import InputError
from s2vnet.utils.atomic_write import atomic_write, require_writable
from s2vnet.utils.folders import make_folder


def prepare(recipe: Recipe, data: Path | None, out: Path, folds: Sequence[Fold], device: str) -> Path:
    """Create the output folder, or check that it belongs to the same recipe, dataset and device.

    Args:
        recipe: of the benchmark.
        data: folder that holds the dataset's, or that folder itself; unused for a phantom.
        out: folder of all results.
        folds: to run.
        device: cpu or cuda.

    Returns:
        The dataset's folder.

    Raises:
        InputError: an unknown fold, no such dataset, or a folder of another benchmark.
    """
    root = _find_dataset(recipe, data, out)
    if recipe.phantom is None:  # before anything is written
        _require_folds(recipe, read_dataset(root), folds)
    make_folder(out)
    require_writable(out)
    _record_recipe(recipe, out)
    if recipe.phantom is not None and not (root / "dataset.json").exists():
        write_dataset(root, **recipe.phantom.model_dump())
    dataset = read_dataset(root)
    _require_folds(recipe, dataset, folds)
    _record_inputs(dataset, device, out)
    _write_plan(recipe, dataset, out)
    return root


def _find_dataset(recipe: Recipe, data: Path | None, out: Path) -> Path:
    if recipe.phantom is not None:
        return out / recipe.dataset
    if data is None:
        raise InputError(f"--data: name the folder that holds {recipe.dataset}")
    is_dataset = recipe.dataset in (data.absolute().name, data.resolve().name)
    root = data if is_dataset else data / recipe.dataset
    if not (root / "dataset.json").is_file():
        raise InputError(f"{data}: no {recipe.dataset} there; see `s2vnet import`")
    return root


def _require_folds(recipe: Recipe, dataset: Dataset, folds: Sequence[Fold]) -> None:
    for fold in folds:
        recipe.cases(dataset, fold)


def _record_recipe(recipe: Recipe, out: Path) -> None:
    """Write the recipe; refuse a folder of another one. Methods, folds, seeds and title may change."""
    path, may_change = out / "recipe.json", {"methods", "folds", "seeds", "title"}
    text = recipe.model_dump_json(indent=2) + "\n"
    if path.exists():
        before, now = _read_record(path), json.loads(text)
        changed = [key for key in now if key not in may_change and before.get(key) != now[key]]
        if changed:
            raise InputError(f"{out} was made by another recipe ({', '.join(changed)}); choose another folder")
    with atomic_write(path) as temporary:
        temporary.write_text(text)


def _record_inputs(dataset: Dataset, device: str, out: Path) -> None:
    """Write dataset and device; refuse a folder of others, so that a report never mixes them."""
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
    before = _read_record(path)
    changed = [key for key in now if before.get(key) != now[key]]
    if changed == ["device"]:
        raise InputError(f"{out} was made on {before.get('device')}, not {device}; choose another folder, or --device")
    if changed:
        raise InputError(f"{out} was made with another dataset ({', '.join(changed)}); choose another folder")


def _read_record(path: Path) -> dict[str, Any]:
    """Read the record of an earlier call. Raises InputError if it is damaged."""
    try:
        content = json.loads(path.read_text())
        if isinstance(content, dict):
            return content
        reason = "no JSON object"
    except OSError as error:
        reason = str(error.strerror)
    except ValueError as error:
        reason = str(error)
    raise InputError(f"{path}: damaged ({reason}); choose another folder")


def _write_plan(recipe: Recipe, dataset: Dataset, out: Path) -> None:
    path = out / "plan.json"
    if not path.exists():
        plan = recipe.plan_from(make_plan(extract_fingerprint(dataset)))
        recipe.train_config(plan, 0)  # refuse invalid settings before the plan is written
        recipe.model_config_of(plan)
        save_json(plan, path)
