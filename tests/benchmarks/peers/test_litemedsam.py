"""LiteMedSAM's input and masks."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
import torch

from benchmarks.ablation import PHANTOM_PLAN
from benchmarks.peers import litemedsam
from s2vnet.data.plan import IntensityScheme
from s2vnet.data.preprocess import Case, preprocess
from s2vnet.io.geometry import Geometry, Volume

CPU = torch.device("cpu")


def test_litemedsam_uses_its_own_ct_window_on_the_pixels_of_the_file() -> None:
    data = np.linspace(-1000, 1000, 6 * 5 * 4, dtype=np.float32).reshape(1, 6, 5, 4)
    volume = Volume(data, Geometry((6, 5, 4), np.diag([0.5, 0.7, 3, 1])))
    ct = IntensityScheme(kind="ct", low=-50, high=100, mean=30, std=40)
    plan = litemedsam.native_plan(PHANTOM_PLAN.model_copy(update={"intensities": (ct,)}), volume.geometry)
    image = preprocess(volume, plan).image[0, :, :6, :5]
    np.testing.assert_allclose(image, np.moveaxis(data[0], 2, 0).clip(-160, 240), atol=1e-3)
    assert litemedsam.native_plan(PHANTOM_PLAN, volume.geometry).intensities == PHANTOM_PLAN.intensities  # no CT


@pytest.mark.skipif(importlib.util.find_spec(litemedsam.PACKAGE) is None, reason="its weights are not installed")
def test_litemedsam_segments_true_boxes(cases: list[Case]) -> None:
    scores = litemedsam.segment(litemedsam.load(CPU), cases[0], 3, CPU)
    predicted = scores.argmax(1).numpy()
    assert (predicted == cases[0].labels).mean() > 0.9
    assert set(np.unique(predicted)) == {0, 1, 2}
    assert "timm" not in sys.modules  # the substitute is removed
