"""Segmentation in bounded memory equals that of a session bit for bit, wherever intermediate results are cached."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from s2vnet.batch.jobs import ExtraOutputs
from s2vnet.data.plan import IntensityScheme, Plan
from s2vnet.data.training_ranges import TrainingRanges
from s2vnet.errors import InputError
from s2vnet.inference.disk_cache import MemoryBudget
from s2vnet.inference.postprocessing import remove_detached_parts
from s2vnet.inference.segmentation import Segmentation
from s2vnet.inference.segmenter import Segmenter
from s2vnet.io.files import read_lazy_image, write_image
from s2vnet.io.geometry import Volume

Save = Callable[..., Path]

CT = (IntensityScheme(kind="ct", low=380, high=620, mean=500, std=60),)
THICK = TrainingRanges(
    spacing=((0.1, 0.1, 5.0), (9.0, 9.0, 9.0)), size=((1.0, 1.0, 1.0), (99.0, 99.0, 99.0)), tissue=((0, 999),)
)


def cached(segmenter: Segmenter, volume: Volume) -> Segmentation:
    """Segmentation by EncodedVolume, with the features of all slices in memory."""
    case = segmenter.prepare(volume)
    total = torch.zeros(())
    for model in segmenter.models:
        total = total + segmenter.encode(case, model).probabilities
    scores = (total / len(segmenter.models)).half()
    return Segmentation(case.grid, remove_detached_parts(scores, segmenter.plan.smallest_part), segmenter.class_names)


@pytest.mark.parametrize("room", [0, 100_000, 1 << 40], ids=["disk", "both", "memory"])
@pytest.mark.parametrize(
    ("plan", "network", "members"),
    [
        ({}, {}, 1),
        ({"intensities": CT, "smallest_part": 0.3}, {"propagation": "none"}, 2),
        ({"intensities": CT, "seen": THICK, "crop_to_nonzero": False, "mirrored": "A"}, {}, 1),
        (
            {"intensities": CT, "spacing": (0.7, 0.9), "plane": "coronal", "stem_stride": 2},
            {"propagation": "previous"},
            2,
        ),
    ],
    ids=["mr", "strays of two without propagation", "joined and mirrored", "coronal"],
)
def test_streaming_equals_the_encoded_volume(
    make_plan: Callable[..., Plan],
    save: Save,
    bordered: Volume,
    plan: dict[str, Any],
    network: dict[str, Any],
    members: int,
    room: int,
) -> None:
    folders = [save(make_plan(**plan), seed, **network) for seed in range(1, 1 + members)]
    segmenter = Segmenter.from_pretrained(*folders, device="cpu")
    expected = cached(segmenter, bordered)
    left = MemoryBudget(room)
    found = segmenter.segment_case(segmenter.prepare_slices(bordered), budget=left)
    assert len(expected.labels().data[expected.labels().data > 0]) > 100
    assert torch.equal(found.scores, expected.scores)
    np.testing.assert_array_equal(found.labels().data, expected.labels().data)
    assert left.available <= room


def test_too_little_memory_is_refused_with_what_is_needed(
    segmenter: Segmenter, bordered: Volume, tmp_path: Path
) -> None:
    write_image(tmp_path / "a.nii.gz", bordered)
    with pytest.raises(InputError, match=r"[\d.]+ [MG]B of memory are needed, --max-memory allows 1 MB"):
        segmenter.memory_budget([tmp_path / "a.nii.gz"], 10**6)
    room = segmenter.memory_budget([tmp_path / "a.nii.gz"], 10**11)
    for extras in (ExtraOutputs(probabilities=True), ExtraOutputs(uncertainty=True), ExtraOutputs(overlay=True)):
        less = segmenter.memory_budget([tmp_path / "a.nii.gz"], 10**11, extras.frames(3))
        assert less.available < room.available
    stored = read_lazy_image(tmp_path / "a.nii.gz")
    found = segmenter.segment_case(segmenter.prepare_slices(stored), budget=room)
    np.testing.assert_array_equal(found.labels().data, cached(segmenter, bordered).labels().data)
