"""Probabilities, labels, uncertainty and volumes are one answer, on exactly the image's grid."""

from __future__ import annotations

import numpy as np
import pytest

from s2vnet.inference import segmentation as segmentation_module
from s2vnet.inference.segmentation import volumes_ml
from s2vnet.inference.segmenter import Segmenter
from s2vnet.io.geometry import Volume


def test_probabilities_sum_to_one_and_agree_with_the_labels(segmenter: Segmenter, bordered: Volume) -> None:
    found = segmenter.segment(bordered)
    labels, probabilities = found.labels(), found.probabilities()
    assert labels.geometry is bordered.geometry
    assert probabilities.data.shape == (3, *bordered.geometry.shape)
    np.testing.assert_allclose(probabilities.data.sum(0), 1, atol=2e-3)
    np.testing.assert_array_equal(probabilities.data.argmax(0), labels.data)
    assert np.unique(labels.data).tolist() == [0, 1, 2]


def test_outside_the_crop_is_background(segmenter: Segmenter, bordered: Volume) -> None:
    found = segmenter.segment(bordered)
    outside = bordered.data[0] == 0
    assert not found.labels().data[outside].any()
    assert (found.probabilities().data[0][outside] == 1).all()
    assert (found.uncertainty().data[0][outside] == 0).all()


def test_uncertainty_lies_between_sure_and_even(segmenter: Segmenter, bordered: Volume) -> None:
    uncertainty = segmenter.segment(bordered).uncertainty()
    assert uncertainty.data.shape == (1, *bordered.geometry.shape)
    assert 0 <= uncertainty.data.min() < 0.5 < uncertainty.data.max() <= 1


def test_classes_outside_the_subset_become_background(segmenter: Segmenter, bordered: Volume) -> None:
    found = segmenter.segment(bordered)
    whole, part = found.labels().data, found.labels([2]).data
    np.testing.assert_array_equal(part, np.where(whole == 2, 2, 0))


def test_volumes_count_voxels(segmenter: Segmenter, bordered: Volume) -> None:
    found = segmenter.segment(bordered)
    labels = found.labels()
    voxel = 0.8 * 1.1 * 2.5 / 1000
    counts = {name: np.count_nonzero(labels.data == k) for k, name in ((1, "left part"), (2, "right"))}
    assert volumes_ml(labels, found.class_names) == pytest.approx({name: n * voxel for name, n in counts.items()})


def test_slices_are_brought_back_in_parts(
    segmenter: Segmenter, bordered: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = segmenter.segment(bordered)
    whole = found.labels().data, found.probabilities().data, found.uncertainty().data
    monkeypatch.setattr(segmentation_module, "SLICES_PER_CHUNK", 2)
    for expected, parts in zip(
        whole, (found.labels().data, found.probabilities().data, found.uncertainty().data), strict=True
    ):
        np.testing.assert_array_equal(parts, expected)
