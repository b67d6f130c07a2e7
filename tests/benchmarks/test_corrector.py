"""Warped training cases of the corrector's benchmark."""

from __future__ import annotations

import numpy as np

from benchmarks.corrector import warp
from s2vnet.data.preprocess import Case
from s2vnet.data.slice_grid import SliceGrid
from s2vnet.inference.segmenter import Segmenter
from s2vnet.io.geometry import Volume


def test_a_warped_case_has_the_same_shape_and_classes(segmenter: Segmenter, bordered: Volume) -> None:
    grid: SliceGrid = segmenter.prepare(bordered).grid
    rng = np.random.default_rng(0)
    labels = np.zeros((6, 32, 32), np.uint8)
    labels[:, 8:24, 8:24] = 2
    case = Case("a", rng.standard_normal((1, 6, 32, 32), np.float32), labels, grid)
    one, two = (warp(case, np.random.default_rng(1)) for _ in range(2))
    other = warp(case, np.random.default_rng(2))
    assert one.labels is not None
    assert one.image.shape == case.image.shape
    assert set(np.unique(one.labels).tolist()) == {0, 2}
    np.testing.assert_array_equal(one.image, two.image)
    np.testing.assert_array_equal(one.labels, two.labels)
    assert not np.array_equal(one.image, other.image)
