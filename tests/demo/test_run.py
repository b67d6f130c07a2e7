"""A scene's score and simulated clicks, on the phantom's two ellipsoids."""

from __future__ import annotations

import numpy as np
import pytest

from s2vnet.demo.run import Scene
from s2vnet.io.geometry import LabelMap, Volume

Phantom = tuple[Volume, LabelMap]


def test_a_score_is_the_mean_dice_over_the_classes(phantom: Phantom) -> None:
    volume, truth = phantom
    scene = Scene(volume, truth.data, {}, "drawn")
    assert scene.score(truth.data) == 1
    assert scene.score(np.where(truth.data == 1, 1, 0)) == pytest.approx(0.5)


def test_every_wrong_class_is_clicked_and_no_voxel_twice(phantom: Phantom) -> None:
    volume, truth = phantom
    scene = Scene(volume, truth.data, {}, "drawn")
    assert scene.clicks(truth.data) == []
    for click in (clicks := scene.clicks(np.zeros_like(truth.data))):
        assert truth.data[click.voxel] == click.class_id
    assert [click.class_id for click in clicks] == [1, 2]
    exchanged = np.array([0, 2, 1], np.uint8)[truth.data]
    assert len(scene.clicks(exchanged)) == 1


def test_a_reference_of_other_classes_is_compared_as_foreground(phantom: Phantom) -> None:
    volume, truth = phantom
    whole = 3 * (truth.data > 0).astype(np.uint8)
    scene = Scene(volume, whole, {3: "whole"}, "drawn by others")
    assert scene.score(truth.data) == 1
    assert scene.clicks(truth.data) == []
    (click,) = scene.clicks(np.where(truth.data == 2, 2, 0).astype(np.uint8))
    assert (click.class_id, truth.data[click.voxel]) == (2, 1)  # the class of the nearest labelled voxel
    (click,) = Scene(volume, np.where(truth.data == 2, whole, 0), {3: "whole"}, "drawn").clicks(truth.data)
    assert (click.class_id, truth.data[click.voxel]) == (0, 1)
