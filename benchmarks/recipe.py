"""What a benchmark is: data, split, plan, network, training, seeds, methods, protocol. One file each in `recipes/`."""

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
from s2vnet.utils.validation import first_error

RECIPES = Path(__file__).parent / "recipes"
FINAL = "final"
"""The fold that trains on every training case and is scored on the test cases."""

Fold = int | Literal["final"]
Method = Literal["s2vnet", "unet2d", "unet3d", "nnunet2d", "nnunet3d", "unetr", "clicknet", "litemedsam", "shipped"]
OURS: Method = "s2vnet"
SHIPPED: Method = "shipped"
_Model = TypeVar("_Model", bound=BaseModel)


class PhantomCases(BaseModel):
    """How many phantoms are drawn."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    training: int = Field(ge=5)
    test: int = Field(ge=1)
    depth: int = Field(ge=2)


class Recipe(BaseModel):
    """One benchmark. Opponents train for as many seconds as ours took on the same fold and seed."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    title: str
    """Name of the benchmark in the report."""
    dataset: str
    """Name of the dataset's folder in nnU-Net's raw layout."""
    phantom: PhantomCases | None = None
    """Draw the dataset; nothing is read then."""
    folds: tuple[Fold, ...] = Field(min_length=1)
    """Folds of `splits_final.json`, or nnU-Net's five; ``final`` trains on all and scores the test cases."""
    plan: dict[str, Any] = {}
    """What differs from the plan that `s2vnet plan` makes."""
    network: dict[str, Any] = {}
    """What differs from the network's defaults."""
    training: dict[str, Any] = {}
    """What differs from the training's defaults."""
    learning_rates: dict[Method, Annotated[float, Field(gt=0)]] = {"unetr": 1e-4}
    """Peak learning rates of methods that the training's does not suit. UNETR's is its paper's (arXiv 2103.10504)."""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    """Each fold is trained once per seed."""
    methods: tuple[Method, ...] = Field(min_length=1)
    """What is compared."""
    shipped: str | None = None
    """The model of this dataset that comes with s2vnet; it has seen all training cases, so only test cases score it."""
    rounds: int = Field(default=5, ge=1)
    """Rounds of one click per class."""
    tolerance_mm: float = Field(default=2.0, gt=0)
    """Of the normalised surface Dice."""
    budget_share: float = Field(default=1.0, gt=0)
    """Seconds that an opponent trains over those that ours took: CPU seconds on a CPU, wall seconds on a GPU."""
    patch_3d: tuple[int, int, int] = (32, 96, 96)
    """Largest patch (D, H, W) of the 3D opponents; smaller volumes go in whole."""
    most_cases: tuple[int, int] | None = None
    """Only the first so many cases are trained on and scored."""

    def quick(self) -> Recipe:
        """The same code paths in a minute; its figures mean nothing."""
        training = {"epochs": 1, "steps_per_epoch": 8, "warmup_steps": 2, "max_correction_rounds": 1}
        update = {"training": {**self.training, **training}, "seeds": self.seeds[:1], "folds": self.folds[:1]}
        return self.model_copy(update={**update, "rounds": 2, "most_cases": (4, 2)})

    def train_config(self, plan: Plan, seed: int, method: Method = OURS) -> TrainConfig:
        """Settings of a method's training. Raises InputError for one that there is not."""
        own = {"learning_rate": self.learning_rates[method]} if method in self.learning_rates else {}
        settings = {"clip_length": plan.clip_length, **self.training, **own, "seed": seed}
        return checked(TrainConfig, settings, "training")

    def model_config_of(self, plan: Plan) -> ModelConfig:
        """Settings of our network. Raises InputError for one that there is not."""
        return checked(ModelConfig, {"encoder": plan.encoder, **plan.network, **self.network}, "network")

    def plan_from(self, made: Plan) -> Plan:
        """The plan with this recipe's changes. Raises InputError for a wrong one."""
        return changed_plan(made, self.plan)

    def cases(self, dataset: Dataset, fold: Fold) -> tuple[list[str], list[str]]:
        """Names of the cases that are trained on and of those that are scored.

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


def changed_plan(made: Plan, changes: Mapping[str, Any]) -> Plan:
    """A plan with changes; patches keep their size in mm unless told otherwise. Raises InputError for a wrong one."""
    plan = checked(Plan, {**made.model_dump(), **changes}, "plan")
    if {"spacing", "stem_stride"} & changes.keys() and "patch_size" not in changes:
        multiple = 8 * plan.stem_stride
        pairs = zip(made.patch_size, made.spacing, plan.spacing, strict=True)
        cells = [min(MAX_PATCH / multiple, round(size * old / new / multiple, 6)) for size, old, new in pairs]
        plan = checked(Plan, {**plan.model_dump(), "patch_size": [multiple * math.ceil(n) for n in cells]}, "plan")
    return plan


def read_recipe(name: str) -> Recipe:
    """A recipe by its name in `recipes/`, or by its file.

    Raises:
        InputError: none of this name, not JSON, or a setting that there is not.
    """
    known = sorted(path.stem for path in RECIPES.glob("*.json"))
    path = RECIPES / f"{name}.json" if name in known else Path(name)
    if not path.is_file():
        raise InputError(f"no recipe {name!r}; give a file or one of {', '.join(known)}")
    try:
        content = json.loads(path.read_text(), parse_constant=_refuse)
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from error
    return checked(Recipe, content, path.name)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def chosen(wanted: Sequence[str] | None, there: Sequence[Any], what: str) -> list[Any]:
    """Those of `there` that are named; all without names. Raises InputError for another name."""
    names = {str(item): item for item in there}
    unknown = [name for name in wanted or () if name not in names]
    if unknown:
        raise InputError(f"{what} {unknown[0]!r} is not one of {', '.join(names)}")
    return [names[name] for name in dict.fromkeys(wanted)] if wanted else list(there)


def checked(kind: type[_Model], values: Any, what: str) -> _Model:
    """Validate; what pydantic refuses becomes one line (InputError)."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{what}: {first_error(error)}") from error
