"""Where the simulated user clicks and what the click says."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from s2vnet.errors import InputError
from s2vnet.evaluation.simulated_clicks import next_click
from s2vnet.prompts import Point

Labels = npt.NDArray[np.uint8]
SPACING = (0.8, 1.1, 2.5)


def empty(shape: tuple[int, int, int] = (15, 14, 13)) -> Labels:
    return np.zeros(shape, np.uint8)


def two_errors() -> Labels:
    """Class 2: a small part in one corner, a large one elsewhere whose middle is (8, 7, 6)."""
    labels = empty()
    labels[:3, :3, :3] = 2
    labels[6:11, 5:10, 4:9] = 2
    return labels


def test_perfect_result_has_no_click() -> None:
    assert next_click(two_errors(), two_errors(), 2) is None
    assert next_click(two_errors(), two_errors(), 1) is None


def test_false_negatives_get_a_positive_click_in_the_largest_component() -> None:
    assert next_click(empty(), two_errors(), 2) == Point(class_id=2, voxel=(8, 7, 6))
    assert next_click(empty(), two_errors(), 2, rng=np.random.default_rng(0), false_positive_click="negative") == Point(
        class_id=2, voxel=(8, 7, 6)
    )


def test_false_positives_get_a_click_of_the_true_class_or_a_negative_one() -> None:
    truth = empty()
    assert next_click(two_errors(), truth, 2) == Point(class_id=0, voxel=(8, 7, 6))
    truth[8] = 3
    assert next_click(two_errors(), truth, 2) == Point(class_id=3, voxel=(8, 7, 6))
    assert next_click(two_errors(), truth, 2, false_positive_click="negative") == Point(
        class_id=2, positive=False, voxel=(8, 7, 6)
    )


def test_errors_of_other_classes_do_not_count() -> None:
    truth = two_errors()
    predicted = truth.copy()
    predicted[0, 0, 0], predicted[14, 13, 12] = 0, 5
    assert next_click(predicted, truth, 2) == Point(class_id=2, voxel=(0, 0, 0))


def test_end_of_volume_counts_as_outside() -> None:
    truth = np.ones((7, 5, 5), np.uint8)
    click = next_click(np.zeros_like(truth), truth, 1)
    assert click is not None
    assert click.voxel in {(i, 2, 2) for i in range(2, 5)}


def test_components_are_26_connected() -> None:
    truth = empty()
    truth[0:2, 0:2, 0:2] = 1
    truth[2:4, 2:4, 2:4] = 1  # together 16 voxels
    truth[8:11, 8:11, 8] = 1  # 9 voxels
    click = next_click(empty(), truth, 1)
    assert click is not None
    assert max(click.voxel) < 4


def test_ties_are_resolved_by_order_or_at_random() -> None:
    truth = empty()
    truth[3:9, 4, 4] = 1
    drawn = {next_click(empty(), truth, 1, rng=np.random.default_rng(seed)) for seed in range(40)}
    assert next_click(empty(), truth, 1) == Point(class_id=1, voxel=(3, 4, 4))
    assert drawn == {Point(class_id=1, voxel=(i, 4, 4)) for i in range(3, 9)}


def test_click_lies_deepest_in_an_error() -> None:
    """Against the plain definition, without any crop."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        truth, predicted = ((ndimage.gaussian_filter(rng.normal(size=(12, 11, 10)), 1) > 0.1) for _ in range(2))
        parts, count = ndimage.label(truth != predicted, np.ones((3, 3, 3)))
        largest = parts == 1 + np.argmax([(parts == n).sum() for n in range(1, count + 1)])
        depth = ndimage.distance_transform_edt(np.pad(largest, 3))[3:-3, 3:-3, 3:-3]
        click = next_click(predicted.astype(np.uint8), truth.astype(np.uint8), 1)
        assert click is not None
        assert depth[click.voxel] == depth.max()
        assert click.class_id == truth[click.voxel]


def test_jitter_stays_in_the_component() -> None:
    truth = two_errors()
    for std in (0.5, 3.0, 500.0):
        seen = set()
        for seed in range(30):
            click = next_click(empty(), truth, 2, SPACING, np.random.default_rng(seed), std)
            assert click is not None
            assert truth[click.voxel] == 2
            assert min(click.voxel) >= 4
            seen.add(click.voxel)
        assert len(seen) > 1


def test_jitter_is_in_mm() -> None:
    truth = np.ones((41, 41, 41), np.uint8)
    voxels = []
    for seed in range(60):
        click = next_click(np.zeros_like(truth), truth, 1, (0.5, 1.0, 4.0), np.random.default_rng(seed), 2.0)
        assert click is not None
        voxels.append(click.voxel)
    assert np.std(voxels, axis=0) * (0.5, 1.0, 4.0) == pytest.approx([2, 2, 2], rel=0.35)
    assert np.mean(voxels, axis=0) == pytest.approx([20, 20, 20], abs=2)


def test_jitter_needs_spacing_and_rng() -> None:
    for spacing, rng in ((None, np.random.default_rng(0)), (SPACING, None)):
        with pytest.raises(ValueError, match="jitter"):
            next_click(empty(), two_errors(), 2, spacing, rng, 1.0)


def test_shapes_must_agree() -> None:
    with pytest.raises(InputError, match="one grid"):
        next_click(empty((3, 3, 3)), two_errors(), 2)
