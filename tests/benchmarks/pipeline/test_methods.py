"""The bundled model as a method: only for test cases, and the same labels as its segmenter."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.pipeline.methods import TrainedMethod, require_unseen
from benchmarks.pipeline.runs import Run, unavailable_reason
from benchmarks.pipeline.stages import train_stage
from benchmarks.recipes.recipe import read_recipe
from s2vnet.data.plan import save_json
from s2vnet.errors import InputError
from s2vnet.inference.segmenter import Segmenter
from s2vnet.io.geometry import Geometry, Volume


def test_bundled_model_is_scored_only_on_test_cases(tmp_path: Path) -> None:
    recipe = read_recipe("phantom").model_copy(update={"shipped": "hippocampus-mr"})
    assert unavailable_reason("shipped", recipe, [0, 1]) == "it was trained on every case of the folds"
    assert unavailable_reason("shipped", recipe, ["final"]) is None
    assert "no model 'abacus'" in str(
        unavailable_reason("shipped", recipe.model_copy(update={"shipped": "abacus"}), ["final"])
    )
    segmenter = Segmenter.from_pretrained("hippocampus-mr", device="cpu")
    save_json(segmenter.plan, tmp_path / "plan.json")
    bundled = Run(recipe, tmp_path, tmp_path, "final", 0, "shipped", "cpu")
    train_stage(bundled)
    description = json.loads((bundled.folder / "trained.json").read_text())
    assert (description["parameters"], description["steps"]) == (
        sum(p.numel() for p in segmenter.models[0].parameters()),
        2400,
    )
    image = np.random.default_rng(0).normal(size=(1, 20, 20, 6)).astype(np.float32)
    volume = Volume(image, Geometry((20, 20, 6), np.eye(4)))
    session = TrainedMethod(bundled).session(volume)
    assert session is not None
    assert np.array_equal(session.labels, segmenter.segment(volume).labels().data)


def test_training_cases_are_not_scored(save: Callable[..., Path]) -> None:
    folder = save()
    info = {"dataset": "Phantom", "training_case_names": ["a", "b", "c", "d"]}
    description = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**description, "info": info}))
    require_unseen(folder, "Phantom", ["e", "f"])
    require_unseen(folder, "Other", ["a"])  # cases of another dataset may have the same names
    with pytest.raises(InputError, match="was trained on a; score it on cases it has not seen"):
        require_unseen(folder, "Phantom", ["e", "a"])
    with pytest.raises(InputError, match="was trained on a, b, c and 1 more"):
        require_unseen(folder, "Phantom", ["d", "c", "b", "a"])
