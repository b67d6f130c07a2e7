"""The list of models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from s2vnet.data.plan import Plan
from s2vnet.errors import CheckpointError
from s2vnet.inference.model_list import list_models
from s2vnet.model.bundled import LICENCES


def test_models_of_the_package_and_of_folders(save: Callable[..., Path], make_plan: Callable[..., Plan]) -> None:
    folder = save(make_plan(channels=2))
    *bundled, last = list_models([folder])
    assert [each.name for each in bundled] == list(LICENCES) == ["abdomen-ct", "hippocampus-mr"]
    abdomen, hippocampus = bundled
    assert (abdomen.modality, abdomen.plane, len(abdomen.classes), abdomen.classes[5]) == ("CT", "axial", 13, "liver")
    assert (hippocampus.modality, hippocampus.plane) == ("MR", "coronal")
    assert all(1e6 < each.nbytes < 2e7 for each in bundled)
    assert (last.name, last.classes, last.licence) == (str(folder), ("left part", "right"), "not stated")


def test_a_licence_of_the_dataset_and_damaged_models(save: Callable[..., Path], tmp_path: Path) -> None:
    path = save() / "model.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"info": {"licence": "CC0"}}))
    assert list_models([path.parent])[-1].licence == "CC0"
    for damaged in ("[", "[]", "{}", '{"plan": {}}', '{"plan": 3}'):
        path.write_text(damaged)
        with pytest.raises(CheckpointError, match="damaged") as caught:
            list_models([path.parent])
        assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="not a trained model"):
        list_models([tmp_path])
