"""Scores during training."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel
from training_runs import Train

from s2vnet.data.preprocess import Case
from s2vnet.training.validation_scores import quick_scores

pytestmark = pytest.mark.timeout(300)


def test_an_absent_class_has_no_score(tmp_path: Path, run: Train, cases: list[Case]) -> None:
    empty = dataclasses.replace(cases[1], labels=np.zeros_like(cases[1].labels))
    run(tmp_path, {"epochs": 1, "steps_per_epoch": 1}, validation=[empty])
    row = json.loads((tmp_path / "history.json").read_text(), parse_constant=pytest.fail)[-1]
    assert row.get("dice", 0.0) == 0.0  # where the network finds a class that is not there, it has Dice 0


def test_there_are_no_scores_without_cases(tmp_path: Path) -> None:
    assert quick_scores(AveragedModel(torch.nn.Identity()), [], {}, tmp_path) == {}
    assert list(tmp_path.iterdir()) == []
