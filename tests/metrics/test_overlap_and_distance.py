"""Dice, NSD and HD95 against shapes whose distances are known."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest

from s2vnet.errors import InputError
from s2vnet.metrics.overlap_and_distance import (
    ClassMetrics,
    bootstrap_mean,
    class_metrics,
    dice,
    hausdorff95,
    surface_dice,
)
from s2vnet.utils.components import bounding_box

SHAPE = (20, 18, 12)
SPACING = (0.7, 0.7, 5.0)
ALL = slice(None)


def box(*where: slice | int) -> npt.NDArray[np.uint8]:
    labels = np.zeros(SHAPE, np.uint8)
    labels[where] = 1
    return labels


def score(predicted: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8], tolerance: float = 2.0) -> ClassMetrics:
    return class_metrics(predicted, truth, [1], SPACING, tolerance)[1]


def nsd(predicted: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    return surface_dice(predicted, truth, SPACING)


def test_perfect_result() -> None:
    for truth in (box(5, 6, 7), box(0, 0, 0), box(slice(3, 9), slice(2, 8), slice(4, 7)), box(ALL, ALL, ALL)):
        assert score(truth, truth) == ClassMetrics(1.0, 1.0, 0.0)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shift", [1, 2, 4])
def test_hd95_of_parallel_planes_is_their_distance_in_mm(axis: int, shift: int) -> None:
    place: list[slice | int] = [ALL, ALL, ALL]
    place[axis] = 3
    first = box(*place)
    place[axis] = 3 + shift
    found = score(first, box(*place))
    assert found.dice == 0
    assert found.hd95 == pytest.approx(shift * SPACING[axis])


def test_nsd_counts_the_faces_of_a_plane_within_tolerance() -> None:
    """A plane one voxel thick has two faces: shifted by n voxels, facing ones are n - 1 and like ones n apart."""
    plane = box(3, ALL, ALL)
    assert score(plane, box(5, ALL, ALL)).nsd == 1  # 1.4 mm
    assert score(plane, box(6, ALL, ALL)).nsd == pytest.approx(0.5, abs=0.01)  # facing 1.4 mm, others 2.1 mm
    assert score(plane, box(6, ALL, ALL), tolerance=2.2).nsd == 1
    assert score(plane, box(8, ALL, ALL)).nsd == 0
    assert score(box(ALL, ALL, 3), box(ALL, ALL, 5)).nsd == 0


def test_nsd_weights_surfaces_by_their_area() -> None:
    """A cube of 6 x 6 x 6 voxels is right, a plate of 1 x 6 x 6 beside it is too much (by voxels NSD would be 0.89)."""
    across, height, thin = 6 * 0.7, 6 * 5.0, 0.7
    cube_area = 2 * across**2 + 4 * across * height
    plate_area = 2 * (across * height + thin * height + thin * across)
    cube = box(slice(2, 8), slice(3, 9), slice(2, 8))
    plate = box(15, slice(3, 9), slice(2, 8))
    expected = 2 * cube_area / (2 * cube_area + plate_area)
    assert expected == pytest.approx(0.78, abs=0.005)
    assert score(cube + plate, cube).nsd == pytest.approx(expected, abs=0.02)


def test_border_of_the_volume_changes_nothing() -> None:
    inside = score(box(slice(6, 11), slice(6, 11), slice(4, 7)), box(slice(9, 14), slice(6, 11), slice(4, 7)))
    for i, j, k in ((0, 0, 0), (SHAPE[0] - 8, SHAPE[1] - 5, SHAPE[2] - 3)):
        rest = slice(j, j + 5), slice(k, k + 3)
        at_border = score(box(slice(i, i + 5), *rest), box(slice(i + 3, i + 8), *rest))
        assert at_border == inside


def test_single_voxels() -> None:
    assert score(box(5, 5, 5), box(5, 5, 6)).hd95 == pytest.approx(5.0)
    apart = score(box(0, 0, 0), box(19, 17, 0))
    assert apart.nsd == 0
    assert apart.hd95 == pytest.approx(math.hypot(19 * 0.7, 17 * 0.7))


def test_scores_are_symmetric_and_ignore_axis_order() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.random(SHAPE) < 0.3).astype(np.uint8), box(slice(2, 9), slice(5, 12), slice(1, 6))
    assert score(a, b) == score(b, a)
    turned = class_metrics(a.transpose(2, 0, 1), b.transpose(2, 0, 1), [1], (5.0, 0.7, 0.7))[1]
    assert [turned.dice, turned.nsd, turned.hd95] == pytest.approx([*vars(score(a, b)).values()], rel=1e-5)


def test_empty_masks() -> None:
    nothing, some = np.zeros(SHAPE, np.uint8), box(5, 6, 7)
    assert all(math.isnan(v) for v in vars(score(nothing, nothing)).values())
    diagonal = math.hypot(20 * 0.7, 18 * 0.7, 12 * 5.0)
    assert score(nothing, some) == ClassMetrics(0.0, 0.0, diagonal) == score(some, nothing)
    assert math.isnan(dice(nothing > 0, nothing > 0))
    assert math.isnan(nsd(nothing > 0, nothing > 0))
    assert math.isnan(hausdorff95(nothing > 0, nothing > 0, SPACING))
    assert nsd(some > 0, nothing > 0) == nsd(nothing > 0, some > 0) == 0
    assert math.isinf(hausdorff95(some > 0, nothing > 0, SPACING))


def test_classes_are_scored_independently() -> None:
    truth = box(slice(2, 6), slice(2, 6), slice(2, 6)) + 3 * box(slice(10, 14), slice(2, 6), slice(2, 6))
    predicted = np.where(truth == 3, 3, 0)
    found = class_metrics(predicted, truth, [1, 2, 3], (1, 1, 1))
    assert [found[1].dice, found[3].dice] == [0, 1]
    assert math.isnan(found[2].dice)
    assert dice(predicted > 0, truth > 0) == pytest.approx(2 / 3)


def test_shapes_must_agree() -> None:
    for other in (np.zeros((20, 18, 11), np.uint8), np.zeros(SHAPE[:2], np.uint8)):
        with pytest.raises(InputError, match="one grid"):
            class_metrics(other, box(1, 1, 1), [1], SPACING)


def test_bounding_box() -> None:
    assert bounding_box(box(slice(2, 6), 3, slice(4, 12)) > 0) == (slice(2, 6), slice(3, 4), slice(4, 12))
    assert bounding_box(np.zeros(SHAPE, np.bool_)) is None


def test_bootstrap_interval() -> None:
    values = np.random.default_rng(1).normal(0.8, 0.1, 100)
    mean, low, high = bootstrap_mean([*values, math.nan])
    assert mean == pytest.approx(values.mean())
    half = 1.96 * values.std() / 10
    assert [mean - low, high - mean] == pytest.approx([half, half], rel=0.15)
    assert bootstrap_mean(values) == bootstrap_mean(values)
    assert bootstrap_mean([0.3, 0.3, 0.3]) == pytest.approx((0.3, 0.3, 0.3))
    assert bootstrap_mean([math.nan, 0.5]) == (0.5, 0.5, 0.5)
    assert all(math.isnan(v) for v in bootstrap_mean([]))


def test_slow_libraries_load_on_first_use() -> None:
    code = "import sys, s2vnet.evaluation.report; sys.exit('torch' in sys.modules or 'monai' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
