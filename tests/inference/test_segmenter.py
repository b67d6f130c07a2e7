"""Automatic segmentation: every plan, axes, ensembles, and the models that are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from s2vnet.data.plan import IntensityScheme, Plan
from s2vnet.data.preprocess import preprocess
from s2vnet.errors import CheckpointError, InputError
from s2vnet.inference import segmenter as segmenter_module
from s2vnet.inference.segmenter import Segmenter, find_model
from s2vnet.io.geometry import LabelMap, Volume
from s2vnet.model.checkpoint import DESCRIPTION

Save = Callable[..., Path]


def test_axes_of_the_file_change_nothing(segmenter: Segmenter, oriented: tuple[Volume, Volume, str]) -> None:
    volume, other, _ = oriented
    expected, found = segmenter.segment(volume).labels(), segmenter.segment(other).labels()
    assert found.geometry.same_grid(other.geometry)
    a, b = (labels.geometry.canonical()[1].apply(labels.data) for labels in (expected, found))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "changes",
    [
        {"plane": "sagittal", "spacing": (1.5, 1.5), "stem_stride": 2},
        {"plane": "coronal", "context_slices": 0, "crop_to_nonzero": False},
        {"stem_stride": 4, "intensities": (IntensityScheme(kind="ct", low=0, high=400, mean=200, std=80),)},
    ],
    ids=["sagittal", "coronal", "ct"],
)
def test_every_plan_works(
    changes: dict[str, object], make_plan: Callable[..., Plan], save: Save, bordered: Volume
) -> None:
    segmenter = Segmenter.from_pretrained(save(make_plan(**changes)), device="cpu")
    assert segmenter.segment(bordered).labels().data.shape == bordered.geometry.shape


def test_an_ensemble_is_the_mean(save: Save, model_folder: Path, bordered: Volume) -> None:
    other = save(seed=4)
    one, two, both, twice = (
        Segmenter.from_pretrained(*folders, device="cpu").segment(bordered)
        for folders in ([model_folder], [other], [model_folder, other], [model_folder, model_folder])
    )
    assert torch.equal(twice.scores, one.scores)
    torch.testing.assert_close(both.scores.float(), (one.scores.float() + two.scores.float()) / 2, atol=1e-3, rtol=0)


def test_a_prepared_case_is_segmented_alike(segmenter: Segmenter, bordered: Volume) -> None:
    case = preprocess(bordered, segmenter.plan)
    assert torch.equal(segmenter.segment_case(case).scores, segmenter.segment(bordered).scores)


def test_channels_must_fit(segmenter: Segmenter, make_phantom: Callable[..., tuple[Volume, LabelMap]]) -> None:
    with pytest.raises(InputError, match="2 channels where the model needs channel 0"):
        segmenter.segment(make_phantom(channels=2)[0])


def test_models_of_different_plans_are_refused(save: Save, make_plan: Callable[..., Plan], model_folder: Path) -> None:
    other = save(make_plan(plane="coronal"))
    with pytest.raises(CheckpointError, match="different plans"):
        Segmenter.from_pretrained(model_folder, other)


def test_a_plan_of_another_version_is_refused(save: Save) -> None:
    folder = save()
    content = json.loads((folder / DESCRIPTION).read_text())
    content["plan"]["version"] = 2
    (folder / DESCRIPTION).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="another version"):
        Segmenter.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context_slices": 0}, "in_channels is 3 but its plan needs 1"),
        ({"labels": {"background": 0, "one": 1}}, "num_classes is 3 but its plan needs 2"),
        ({"stem_stride": 2}, "stem_stride is 1 but its plan needs 2"),
    ],
)
def test_a_network_that_its_plan_does_not_describe_is_refused(save: Save, change: dict[str, Any], message: str) -> None:
    folder = save()
    content = json.loads((folder / DESCRIPTION).read_text())
    content["plan"] |= change
    (folder / DESCRIPTION).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        Segmenter.from_pretrained(folder)


def test_models_are_found_by_folder_and_by_name(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_model(model_folder) == model_folder
    monkeypatch.setattr(segmenter_module, "BUNDLED_MODELS", model_folder.parent)
    assert find_model(model_folder.name) == model_folder
    with pytest.raises(CheckpointError, match=f"no model 'absent'.*{model_folder.name}"):
        find_model("absent")


def test_a_mirrored_image_gives_the_mirrored_result_and_one_of_the_two_a_note(
    segmenter: Segmenter, bordered: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = segmenter.segment(bordered).labels().data
    monkeypatch.setattr(segmenter, "plan", segmenter.plan.model_copy(update={"mirrored": "A"}))
    turned = Volume(np.flip(bordered.data, 2).copy(), bordered.geometry)
    one, other = segmenter.segment(bordered).labels().data, segmenter.segment(turned).labels().data
    assert np.mean(np.flip(other, 1) == one) > 0.999  # roundings of the resampling
    said = [
        any("exchanged" in t for t in segmenter.training_differences(v, segmenter.prepare(v)))
        for v in (bordered, turned)
    ]
    assert sum(said) == 1
    assert np.array_equal(one, plain) == said[0]
