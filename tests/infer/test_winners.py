from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from random_models import plan_of

from s2vnet.data.preprocess import preprocess
from s2vnet.infer.winners import winners
from s2vnet.volume.geometry import LabelMap, Volume


@pytest.mark.parametrize("sharpness", [0.0, 1.0, 4.0, 30.0])
def test_winners_are_the_largest_of_all_classes_resampled(
    make_phantom: Callable[..., tuple[Volume, LabelMap]], sharpness: float
) -> None:
    restore = preprocess(make_phantom()[0], plan_of()).restore
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(5, 7, *(n // 2 for n in restore.padded), generator=generator)
    scores[:2, 3:] -= 9  # classes that two slices do not show
    scores[4, 1:] -= 99  # and one that shows none
    probabilities = (scores * sharpness).softmax(1).half().float()
    found = winners(restore, probabilities)
    assert (found == restore.to_source(probabilities).argmax(1).numpy()).all()
    assert found.shape == (5, *restore.size[1:])
    assert found.dtype == np.uint8
