"""Changes are joined and packed without loss, and packed they are small."""

from __future__ import annotations

import numpy as np
import pytest

from s2vnet.interactive.label_changes import LabelChange, Labels, PackedChange


def change_of(before: Labels, after: Labels) -> LabelChange:
    flat = np.flatnonzero(before.reshape(-1) != after.reshape(-1))
    return LabelChange(flat, before.reshape(-1)[flat], after.reshape(-1)[flat])


@pytest.mark.parametrize("share", [0.0, 0.05, 1.0])
def test_a_packed_change_is_the_change(share: float) -> None:
    rng = np.random.default_rng(0)
    before = rng.integers(0, 4, (9, 8, 7), dtype=np.uint8)
    after = np.where(rng.random(before.shape) < share, rng.integers(0, 256, before.shape, np.uint8), before)
    change = change_of(before, after)
    for one, two in zip(PackedChange.of(change).unpack(), change, strict=True):
        np.testing.assert_array_equal(one, two)
        assert one.dtype == two.dtype


def test_indices_of_very_large_volumes_are_packed() -> None:
    voxels = np.array([0, 3, 1 << 33, (1 << 33) + 1], np.intp)
    labels = np.arange(4, dtype=np.uint8)
    np.testing.assert_array_equal(PackedChange.of(LabelChange(voxels, labels, labels)).unpack().voxels, voxels)


def test_an_organ_takes_less_than_half_a_byte_per_voxel() -> None:
    i, j, k = np.ogrid[:80, :80, :60]
    before = np.zeros((80, 80, 60), np.uint8)
    after = ((i - 40) ** 2 + (j - 40) ** 2 + (k - 30) ** 2 < 25**2).astype(np.uint8)
    change = change_of(before, after)
    assert 10 * PackedChange.of(change).nbytes < 5 * len(change.voxels)


def test_two_changes_after_each_other_are_one() -> None:
    rng = np.random.default_rng(1)
    first, second, third = (rng.integers(0, 3, (5, 5, 5), dtype=np.uint8) for _ in range(3))
    joined = change_of(first, second).then(change_of(second, third))
    for one, two in zip(joined, change_of(first, third), strict=True):
        np.testing.assert_array_equal(one, two)
    none = LabelChange.none()
    assert len(none.then(none).voxels) == 0


def test_a_selection_keeps_some_voxels() -> None:
    change = change_of(np.zeros((2, 2, 2), np.uint8), np.arange(8, dtype=np.uint8).reshape(2, 2, 2))
    chosen = change.select(change.after > 4)
    np.testing.assert_array_equal(chosen.voxels, [5, 6, 7])
    np.testing.assert_array_equal(chosen.after, [5, 6, 7])
