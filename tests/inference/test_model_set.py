"""Models of several modalities: each image gets its own, and none gets one that it contradicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from s2vnet.data.plan import IntensityScheme, Plan
from s2vnet.errors import CheckpointError, InputError
from s2vnet.inference.model_set import ModelSet, choose_plan, group_models
from s2vnet.io.geometry import LabelMap, Volume

MakePlan = Callable[..., Plan]
Save = Callable[..., Path]


@pytest.fixture
def make_plan(make_plan: MakePlan) -> MakePlan:
    """Plans for MR."""

    def make(channels: int = 1, **changes: object) -> Plan:
        return make_plan(channels, **changes).model_copy(update={"channels": tuple(f"MR {n}" for n in range(channels))})

    return make


@pytest.fixture
def ct_plan(make_plan: MakePlan) -> Plan:
    window = IntensityScheme(kind="ct", low=-100, high=200, mean=50, std=50)
    return make_plan().model_copy(update={"channels": ("CT",), "intensities": (window,)})


@pytest.fixture
def scans(phantom: tuple[Volume, LabelMap]) -> dict[str, Volume]:
    """An MR, and a CT: the same with air around."""
    volume = phantom[0]
    return {"MR": volume, "CT": Volume(np.where(volume.data < 50, -1000, volume.data), volume.geometry)}


def test_each_image_gets_the_model_of_its_modality(
    save: Save, make_plan: MakePlan, ct_plan: Plan, scans: dict[str, Volume]
) -> None:
    folders = {"MR": save(make_plan()), "CT": save(ct_plan)}
    models = ModelSet.from_pretrained(*folders.values(), device="cpu")
    for modality, image in scans.items():
        segmenter, note = models.choose(image, Path("scan.nii.gz"))
        assert (segmenter.plan.channels[0][:2], note) == (modality, f"segmented by {folders[modality]}")
    with pytest.raises(InputError, match="this needs one model, not several"):
        _ = models.only
    assert models.channels == 1


@pytest.mark.parametrize(("model", "scan"), [("CT", "MR"), ("MR", "CT")])
def test_an_image_of_another_modality_is_refused_unless_wanted(
    save: Save, make_plan: MakePlan, ct_plan: Plan, scans: dict[str, Volume], model: str, scan: str
) -> None:
    folder = save(ct_plan if model == "CT" else make_plan())
    with pytest.raises(InputError, match=r"choose another model \(s2vnet models\), or give --any-modality") as caught:
        ModelSet.from_pretrained(folder, device="cpu").choose(scans[scan], Path("scan.nii.gz"))
    assert "\n" not in str(caught.value)
    wanted = ModelSet.from_pretrained(folder, device="cpu", any_modality=True)
    segmenter, note = wanted.choose(scans[scan], Path("scan.nii.gz"))
    assert (segmenter, note) == (wanted.only, None)
    assert any(" which the model is for" in text or " the model is for MR" in text
               for text in segmenter.training_differences(scans[scan], segmenter.prepare(scans[scan])))  # fmt: skip


def test_models_of_one_plan_are_averaged(save: Save, make_plan: MakePlan, ct_plan: Plan) -> None:
    names = [save(make_plan(), seed=0), save(ct_plan), save(make_plan(), seed=1)]
    groups = group_models(names)
    assert [members for _, members in groups] == [(names[0], names[2]), (names[1],)]
    with pytest.raises(CheckpointError, match="different plans and are not of one modality each"):
        group_models([names[0], save(make_plan(dataset="other"))])
    with pytest.raises(CheckpointError, match="different plans and numbers of channels"):
        group_models([names[1], save(make_plan(channels=2))])


def test_a_header_decides(make_plan: MakePlan, ct_plan: Plan, scans: dict[str, Volume]) -> None:
    without_fat_and_air = replace(scans["MR"], modality="CT")
    assert choose_plan([make_plan(), ct_plan], without_fat_and_air, Path("scan")) == 1
