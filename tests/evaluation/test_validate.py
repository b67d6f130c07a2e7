"""Both modes scored from one session per case."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from s2vnet.data.label_definitions import IGNORED
from s2vnet.errors import InputError
from s2vnet.evaluation.report import markdown
from s2vnet.evaluation.validate import validate
from s2vnet.inference.segmenter import Segmenter
from s2vnet.io.geometry import Geometry, LabelMap, Volume
from s2vnet.metrics.overlap_and_distance import dice
from s2vnet.model.checkpoint import TrainedModel

Phantom = tuple[Volume, LabelMap]


def test_both_modes_start_from_the_automatic_labels(segmenter: Segmenter, phantom: Phantom) -> None:
    names: list[str] = []
    report = validate(segmenter, [("a", *phantom), ("b", *phantom)], rounds=2, done=names.append)
    labels = segmenter.segment(phantom[0]).labels().data
    expected = np.mean([dice(labels == k, phantom[1].data == k) for k in (1, 2)])
    assert names == ["a", "b"]
    assert report["automatic"]["dice"] == pytest.approx(expected)
    assert report["automatic"]["seconds_per_case"] > 0
    assert report["interactive"]["dice_per_round"][0] == pytest.approx(expected)
    assert len(report["interactive"]["dice_per_round"]) == 3


def test_without_rounds_only_automatic_mode_is_scored(segmenter: Segmenter, phantom: Phantom) -> None:
    assert list(validate(segmenter, [("a", *phantom)], rounds=0)) == ["automatic"]


def test_labels_on_another_grid_are_refused(segmenter: Segmenter, phantom: Phantom) -> None:
    moved = LabelMap(phantom[1].data, Geometry(phantom[1].geometry.shape, np.diag([2.0, 1, 1, 1])))
    with pytest.raises(InputError, match="a: image and labels: grids differ"):
        validate(segmenter, [("a", phantom[0], moved)])


def test_an_ensemble_is_refused(model_folder: Path, phantom: Phantom) -> None:
    with pytest.raises(InputError, match="not an ensemble"):
        validate(Segmenter.from_pretrained(model_folder, model_folder), [("a", *phantom)])


def test_unknown_label_values_are_refused(segmenter: Segmenter, phantom: Phantom) -> None:
    labels = phantom[1].data.copy()
    labels[0, 0, 0] = 7
    with pytest.raises(InputError, match=r"a: label values 7 are no classes of the model"):
        validate(segmenter, [("a", phantom[0], LabelMap(labels, phantom[1].geometry))])


def test_regions_are_scored_and_ignored_voxels_are_not(segmenter: Segmenter, phantom: Phantom) -> None:
    plan = segmenter.plan.model_copy(update={"regions": {"both": (1, 2)}})
    trained = [TrainedModel(model, plan.model_dump(mode="json"), {}, "") for model in segmenter.models]  # type: ignore[arg-type]
    other = Segmenter(trained, device="cpu")
    volume, truth = phantom
    partly = truth.data.copy()
    partly[:, :, 4:] = IGNORED
    report = validate(other, [("a", volume, LabelMap(partly, truth.geometry))], rounds=1)
    labels = other.segment(volume).labels().data[:, :, :4]
    expected = dice(labels > 0, truth.data[:, :, :4] > 0)
    regions = report["automatic"]["regions"]
    assert regions["per_region"]["both"]["dice"] == regions["dice"] == pytest.approx(expected)
    assert report["automatic"]["per_class"]["right"]["dice"] == pytest.approx(
        dice(labels == 2, truth.data[:, :, :4] == 2)
    )
    rounds = report["interactive"]["dice_per_round_by_region"]["both"]
    assert (len(rounds), rounds[0]) == (2, pytest.approx(expected))
    shown = markdown(report)
    assert "| Region (union of classes) |" in shown
    assert "| Dice of both |" in shown
