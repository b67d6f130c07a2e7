"""The random walker keeps to the object under the click."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.peers.random_walker import random_walker
from s2vnet.errors import InputError
from s2vnet.interactive.prompt_state import PromptState
from s2vnet.prompts import Point


def test_a_uniform_object_is_found_and_nothing_else() -> None:
    pytest.importorskip("skimage", reason="scikit-image is not installed: pip install -e '.[benchmarks]'")
    image = np.random.default_rng(0).normal(0, 0.05, (24, 24, 12)).astype(np.float32)
    inside = np.zeros(image.shape, bool)
    inside[8:16, 8:16, 4:9] = True
    image[inside] += 5
    labels = np.zeros(image.shape, np.uint8)
    labels[:, :, 8:] = 2  # of another class, which "is not" cannot change
    answer = random_walker(image, (1.0, 1.0, 1.0), radius_mm=9)
    change = answer(labels, PromptState(), Point(class_id=1, voxel=(12, 12, 6)), None)
    found = np.zeros(image.shape, bool)
    found.reshape(-1)[change.voxels] = True
    assert (change.after == 1).all()
    assert (found & inside).sum() / inside.sum() > 0.95
    assert (found & ~inside).sum() / inside.sum() < 0.05
    denied = answer(labels, PromptState(), Point(class_id=2, voxel=(12, 12, 9), positive=False), None)
    assert (labels.reshape(-1)[denied.voxels] == 2).all()


def test_without_scikit_image_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "skimage.segmentation", None)
    with pytest.raises(InputError, match="pip install scikit-image"):
        random_walker(np.zeros((4, 4, 4), np.float32), (1.0, 1.0, 1.0))
