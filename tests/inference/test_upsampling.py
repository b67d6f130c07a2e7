from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from random_models import plan_of

from s2vnet.data.preprocess import preprocess
from s2vnet.data.slice_grid import SliceGrid
from s2vnet.inference.upsampling import upsample_labels
from s2vnet.io.geometry import LabelMap, Volume

PADDED = (32, 48)


@pytest.fixture
def grid(make_phantom: Callable[..., tuple[Volume, LabelMap]]) -> SliceGrid:
    return replace(preprocess(make_phantom()[0], plan_of()).grid, padded=PADDED)


@pytest.mark.parametrize("sharpness", [0.0, 1.0, 4.0, 30.0])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("sampled", "pixels"),
    [((30, 41), (57, 90)), ((32, 48), (32, 48)), ((32, 41), (32, 90)), ((30, 48), (57, 48)), ((29, 40), (13, 17))],
    ids=["finer", "as they are", "columns alone", "rows alone", "coarser"],
)
def test_winners_are_the_largest_of_all_classes_resampled(
    grid: SliceGrid, sampled: tuple[int, int], pixels: tuple[int, int], stride: int, sharpness: float
) -> None:
    grid = replace(grid, sampled=sampled, size=(5, *pixels))
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(5, 7, *(n // stride for n in PADDED), generator=generator)
    scores[:2, 3:] -= 9  # classes that two slices do not show
    scores[4, 1:] -= 99  # and one that shows none
    probabilities = (scores * sharpness).softmax(1).half().float()
    found = upsample_labels(grid, probabilities)
    assert (found == grid.upsample(probabilities).argmax(1).numpy()).all()
    assert found.shape == (5, *pixels)
    assert found.dtype == np.uint8
