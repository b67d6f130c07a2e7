"""Warped cases, hidden classes and ablations of the corrector's benchmark."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.corrector import ABLATIONS, ablate, hide_classes, warp, without_classes
from s2vnet.data.preprocess import Case
from s2vnet.data.slice_grid import SliceGrid
from s2vnet.inference.correction_maps import SegmentedVolume
from s2vnet.inference.segmenter import Segmenter
from s2vnet.io.geometry import Volume
from s2vnet.model.corrector import CELL_MAPS, PIXEL_MAPS, Corrector
from s2vnet.training.correction_trainer import labelled_volume


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


def test_a_hidden_class_is_background_and_no_error() -> None:
    torch.manual_seed(0)
    probabilities = torch.rand(4, 3, 16, 16).softmax(1).half()
    volume = SegmentedVolume(torch.zeros(4, 32, 32), probabilities, torch.zeros(4, 8, 16, 16), 2.0)
    hidden = hide_classes(volume, [2])
    assert not hidden.probabilities[:, 2].any()
    torch.testing.assert_close(hidden.probabilities.sum(1), probabilities.sum(1), atol=2e-3, rtol=0)
    truth = np.random.default_rng(0).integers(0, 3, (4, 32, 32)).astype(np.uint8)
    without = without_classes(labelled_volume(volume, truth), [2])
    assert 2 not in without.labels
    np.testing.assert_array_equal(without.truth.numpy(), np.where(truth == 2, 0, truth))
    assert {part.label for part in without.parts} <= {1}


@pytest.mark.parametrize("what", ABLATIONS)
def test_what_is_ablated_has_no_influence(what: str) -> None:
    torch.manual_seed(0)
    corrector = Corrector().eval()
    torch.nn.init.normal_(corrector.head.weight)
    pixels, cells = torch.randn(1, 4, len(PIXEL_MAPS), 16, 16), torch.randn(1, 4, len(CELL_MAPS), 8, 8)
    others = [pixels.clone(), cells.clone()]
    for maps, names, hidden in zip(others, (PIXEL_MAPS, CELL_MAPS), ABLATIONS[what], strict=True):
        maps[:, :, [names.index(name) for name in hidden]] += 1
    if what == "slices":
        others[0][:, 1:] += 1
    before = [corrector(pixels, cells)[:, 0], corrector(*others)[:, 0]]
    assert not torch.allclose(*before)
    ablate(corrector, what)
    torch.testing.assert_close(corrector(pixels, cells)[:, 0], corrector(*others)[:, 0])
