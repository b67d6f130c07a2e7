"""Recipe of a benchmark: data, split, plan, network, training, seeds, methods, protocol; JSON files in this folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from s2vnet.config import ModelConfig, TrainConfig
from s2vnet.data.dataset import Dataset, read_folds
from s2vnet.data.plan import MAX_PATCH, Plan
from s2vnet.errors import InputError
from s2vnet.utils.validation_errors import first_error

RECIPES = Path(__file__).parent
FINAL = "final"
"""Fold that trains on all training cases and scores the test cases."""

Fold = int | Literal["final"]
Method = Literal["s2vnet", "unet2d", "unet3d", "nnunet2d", "nnunet3d", "unetr", "clicknet", "litemedsam", "shipped"]
OURS: Method = "s2vnet"
SHIPPED: Method = "shipped"
BOX_PROMPTED: Method = "litemedsam"
PRETRAINED = (BOX_PROMPTED, SHIPPED)
"""Methods that a benchmark does not train."""
_Model = TypeVar("_Model", bound=BaseModel)
_Item = TypeVar("_Item")


class PhantomCases(BaseModel):
    """Numbers of generated phantoms and of their slices."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    training: int = Field(ge=5)
    test: int = Field(ge=1)
    depth: int = Field(ge=2)


class Recipe(BaseModel):
    """A benchmark. Other networks train for as many seconds as s2vnet took on the same fold and seed."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    title: str
    """Title of the report."""
    dataset: str
    """Name of the dataset's folder in nnU-Net's raw layout."""
    phantom: PhantomCases | None = None
    """Generate the dataset instead of reading one."""
    folds: tuple[Fold, ...] = Field(min_length=1)
    """Folds of `splits_final.json`, or nnU-Net's five; ``final`` trains on all and scores the test cases."""
    plan: dict[str, Any] = {}
    """Changes to the plan that `s2vnet plan` makes."""
    network: dict[str, Any] = {}
    """Changes to the default network configuration."""
    training: dict[str, Any] = {}
    """Changes to the default training configuration."""
    learning_rates: dict[Method, Annotated[float, Field(gt=0)]] = {"unetr": 1e-4}
    """Peak learning rates of methods that need another than s2vnet; UNETR's is from its paper (arXiv 2103.10504)."""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    """Seeds; each fold is trained once per seed."""
    methods: tuple[Method, ...] = Field(min_length=1)
    """Methods that are compared."""
    shipped: str | None = None
    """Bundled model of this dataset. It was trained on all training cases, so that only test cases score it."""
    rounds: int = Field(default=5, ge=1)
    """Interactive rounds of one click per class."""
    tolerance_mm: float = Field(default=2.0, gt=0)
    """Tolerance of the normalised surface Dice."""
    budget_share: float = Field(default=1.0, gt=0)
    """Training time of the other networks relative to s2vnet's: CPU time on a CPU, wall-clock time on a GPU."""
    patch_3d: tuple[int, int, int] = (32, 96, 96)
    """Largest patch (D, H, W) of 3D networks; smaller volumes are not divided."""
    most_cases: tuple[int, int] | None = None
    """Limits of the numbers of training and of scored cases; the first ones are used."""

    def quick(self) -> Recipe:
        """Shorten the recipe to a minute, to test the code; the scores are meaningless."""
        training = {"epochs": 1, "steps_per_epoch": 8, "warmup_steps": 2}
        update = {"training": {**self.training, **training}, "seeds": self.seeds[:1], "folds": self.folds[:1]}
        return self.model_copy(update={**update, "rounds": 2, "most_cases": (4, 2)})

    def train_config(self, plan: Plan, seed: int, method: Method = OURS) -> TrainConfig:
        """Training configuration of a method. Raises InputError for an invalid setting."""
        override = {"learning_rate": self.learning_rates[method]} if method in self.learning_rates else {}
        settings = {"clip_length": plan.clip_length, **self.training, **override, "seed": seed}
        return validate(TrainConfig, settings, "training")

    def model_config_of(self, plan: Plan) -> ModelConfig:
        """Configuration of s2vnet's network. Raises InputError for an invalid setting."""
        return validate(ModelConfig, {"encoder": plan.encoder, **plan.network, **self.network}, "network")

    def plan_from(self, plan: Plan) -> Plan:
        """Apply the recipe's changes to a plan. Raises InputError for an invalid setting."""
        return changed_plan(plan, self.plan)

    def cases(self, dataset: Dataset, fold: Fold) -> tuple[list[str], list[str]]:
        """Names of the training cases and of the scored cases.

        Raises:
            InputError: no such fold, or test cases without labels.
        """
        if fold == "final":
            parts = [case.name for case in dataset.training], [case.name for case in dataset.test if case.labels]
            if not parts[1]:
                raise InputError(f"{dataset.root}: no test case has labels; fold {FINAL} cannot be scored")
        else:
            splits = read_folds(dataset)
            if not 0 <= fold < len(splits):
                raise InputError(f"no fold {fold}; choose 0 to {len(splits) - 1}, or {FINAL} with --test")
            parts = splits[fold]["train"], splits[fold]["val"]
        train, score = self.most_cases or (None, None)
        return parts[0][:train], parts[1][:score]


def changed_plan(original: Plan, changes: Mapping[str, Any]) -> Plan:
    """Change a plan; its patches keep their size in mm unless ``patch_size`` is given.

    Raises:
        InputError: an invalid setting.
    """
    plan = validate(Plan, {**original.model_dump(), **changes}, "plan")
    if {"spacing", "stem_stride"} & changes.keys() and "patch_size" not in changes:
        multiple = 8 * plan.stem_stride
        pairs = zip(original.patch_size, original.spacing, plan.spacing, strict=True)
        cells = [min(MAX_PATCH / multiple, round(size * old / new / multiple, 6)) for size, old, new in pairs]
        plan = validate(Plan, {**plan.model_dump(), "patch_size": [multiple * math.ceil(n) for n in cells]}, "plan")
    return plan


def read_recipe(name: str) -> Recipe:
    """Read a recipe by its name in this folder, or by its path.

    Raises:
        InputError: no such recipe, invalid JSON, or an invalid setting.
    """
    names = sorted(path.stem for path in RECIPES.glob("*.json"))
    path = RECIPES / f"{name}.json" if name in names else Path(name)
    if not path.is_file():
        raise InputError(f"no recipe {name!r}; give a file or one of {', '.join(names)}")
    try:
        content = json.loads(path.read_text(), parse_constant=_refuse)
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from error
    return validate(Recipe, content, path.name)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")


def select(names: Sequence[str] | None, available: Sequence[_Item], what: str) -> list[_Item]:
    """Select items by name, all of them without names. Raises InputError for an unknown name."""
    by_name = {str(item): item for item in available}
    unknown = [name for name in names or () if name not in by_name]
    if unknown:
        raise InputError(f"{what} {unknown[0]!r} is not one of {', '.join(by_name)}")
    return [by_name[name] for name in dict.fromkeys(names)] if names else list(available)


def validate(kind: type[_Model], values: Any, what: str) -> _Model:
    """Validate values; the first validation error becomes an InputError of one line."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{what}: {first_error(error)}") from error
