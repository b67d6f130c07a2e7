"""Every bundled recipe is valid, and an invalid one is refused in one line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks.ablation import PHANTOM_PLAN
from benchmarks.recipes.phantom import write_dataset
from benchmarks.recipes.recipe import FINAL, OURS, RECIPES, changed_plan, read_recipe, select
from s2vnet.data.dataset import read_dataset
from s2vnet.errors import InputError

NAMES = sorted(path.stem for path in RECIPES.glob("*.json"))


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_valid(name: str) -> None:
    recipe = read_recipe(name)
    plan = recipe.plan_from(PHANTOM_PLAN)
    settings, network = recipe.train_config(plan, 3).model_dump(), recipe.model_config_of(plan).model_dump()
    assert {"seed": 3, **recipe.training}.items() <= settings.items()
    assert {**plan.network, **recipe.network}.items() <= network.items()
    assert re.fullmatch(r"Dataset\d{3}_\w+", recipe.dataset)
    assert recipe.methods[0] == OURS  # its training time is the others' budget
    assert FINAL not in recipe.folds  # test cases are only used with --test
    quick = recipe.quick()
    assert (len(quick.folds), len(quick.seeds), quick.train_config(plan, 0).epochs) == (1, 1, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fold": 0}, "fold: Extra inputs"),
        ({"methods": ["sam"]}, "methods.0: Input should be"),
        ({"learning_rates": {"unetr": 0}}, "learning_rates.unetr: Input should be greater than 0"),
        ({"seeds": []}, "seeds: Tuple should have at least 1"),
    ],
)
def test_invalid_recipe_is_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    content = json.loads((RECIPES / "phantom.json").read_text()) | change
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"^mine.json: {message}[^\n]*$"):
        read_recipe(str(file))
    for text in ("{", '{"plan": {"spacing": [NaN, 1]}}'):
        file.write_text(text)
        with pytest.raises(InputError, match="not valid JSON"):
            read_recipe(str(file))


def test_invalid_settings_are_named() -> None:
    recipe = read_recipe("phantom").model_copy(update={"training": {"epoch": 3}, "plan": {"plane": "oblique"}})
    with pytest.raises(InputError, match="training: epoch: Extra"):
        recipe.train_config(PHANTOM_PLAN, 0)
    with pytest.raises(InputError, match="plan: plane: "):
        recipe.plan_from(PHANTOM_PLAN)


def test_learning_rate_of_a_method() -> None:
    recipe = read_recipe("phantom").model_copy(update={"training": {"learning_rate": 0.01}})
    rates = {m: recipe.train_config(PHANTOM_PLAN, 0, m).learning_rate for m in ("s2vnet", "unet3d", "unetr")}
    assert rates == {"s2vnet": 0.01, "unet3d": 0.01, "unetr": 1e-4}
    own = recipe.model_copy(update={"learning_rates": {"unet3d": 0.003}})
    assert own.train_config(PHANTOM_PLAN, 0, "unet3d").learning_rate == 0.003


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spacing": [1.0]}, "spacing.1: Field required"),
        ({"spacing": 1.0}, "spacing: Input should be a valid tuple"),
        ({"spacing": [0, 1]}, "above 0"),
        ({"spacing": [float("inf"), 1]}, "above 0"),
        ({"stem_stride": "x"}, "stem_stride: Input should be 1, 2 or 4"),
    ],
)
def test_invalid_plan_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=f"^plan: [^\n]*{message}[^\n]*$"):
        changed_plan(PHANTOM_PLAN, changes)


def test_patches_keep_their_size_in_mm() -> None:
    recipe = read_recipe("hippocampus").model_copy(update={"plan": {"spacing": (2.0, 2.0)}})
    assert recipe.plan_from(PHANTOM_PLAN).patch_size == (16, 16)


def test_cases_of_folds_and_test_set(tmp_path: Path) -> None:
    write_dataset(tmp_path, training=10, test=2, depth=3)
    dataset, recipe = read_dataset(tmp_path), read_recipe("phantom")
    train, scored = recipe.cases(dataset, 1)
    assert len(train) == 8
    assert not set(train) & set(scored)
    assert recipe.cases(dataset, "final") == ([f"tr{n:03d}" for n in range(10)], ["ts000", "ts001"])
    assert [len(names) for names in recipe.quick().cases(dataset, 0)] == [4, 2]
    with pytest.raises(InputError, match="no fold 5; choose 0 to 4, or final"):
        recipe.cases(dataset, 5)
    for file in (tmp_path / "labelsTs").iterdir():
        file.unlink()
    with pytest.raises(InputError, match="no test case has labels"):
        recipe.cases(read_dataset(tmp_path), "final")


def test_items_are_selected_by_name() -> None:
    assert select(None, (0, 1), "seed") == [0, 1]
    assert select(["1", "1"], (0, 1), "seed") == [1]
    with pytest.raises(InputError, match="seed '7' is not one of 0, 1"):
        select(["7"], (0, 1), "seed")
