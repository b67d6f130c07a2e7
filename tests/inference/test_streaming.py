"""Segmenting in bounded memory is, to the bit, what a session's engine gives, wherever intermediate results lie."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from disks import fill

from s2vnet.batch.jobs import ExtraOutputs
from s2vnet.data.plan import IntensityScheme, Plan
from s2vnet.data.training_ranges import TrainingRanges
from s2vnet.errors import InputError
from s2vnet.inference.disk_cache import DiskCache, MemoryBudget
from s2vnet.inference.postprocessing import remove_detached_parts
from s2vnet.inference.segmentation import Segmentation
from s2vnet.inference.segmenter import Segmenter
from s2vnet.inference.sweep import average_sweeps
from s2vnet.io.files import read_lazy_image, write_image
from s2vnet.io.geometry import Volume

Save = Callable[..., Path]

CT = (IntensityScheme(kind="ct", low=380, high=620, mean=500, std=60),)
THICK = TrainingRanges(
    spacing=((0.1, 0.1, 5.0), (9.0, 9.0, 9.0)), size=((1.0, 1.0, 1.0), (99.0, 99.0, 99.0)), tissue=((0, 999),)
)


def cached(segmenter: Segmenter, volume: Volume) -> Segmentation:
    """By the engine, which holds the features of all slices."""
    case = segmenter.prepare(volume)
    total = torch.zeros(())
    for model in segmenter.models:
        engine = segmenter.encode(case, model)
        total = total + average_sweeps(engine.automatic, 0, engine.depth)
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
def test_it_is_what_the_engine_gives(
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


def test_a_spill_gives_back_what_it_was_given_as_it_lay_in_memory() -> None:
    room = MemoryBudget(3000)
    cache = DiskCache(room, 5)
    given = {n: [torch.randn(1, 3, 5, 7).permute(0, 2, 1, 3), torch.randn(1, 9).half()] for n in range(5)}
    for n, tensors in given.items():
        cache[n] = tensors
    given[4] = [tensor + 1 for tensor in given[4]]
    cache[4] = given[4]
    assert room.available < 3000
    for n, tensors in given.items():
        for found, expected in zip(cache[n], tensors, strict=True):
            assert torch.equal(found, expected)
            assert found.stride() == expected.stride()
    cache.close()
    assert room.available == 3000
    assert 4 not in cache


def test_a_full_disk_is_found_out_at_the_first_slice() -> None:
    cache = DiskCache(MemoryBudget(0), 1 << 40)
    with pytest.raises(InputError, match=r"of disk space are needed in .* TMPDIR"):
        cache[0] = [torch.zeros(1, 1000)]


def test_a_disk_that_fills_up_or_loses_what_was_written(
    disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = disk(1 << 20)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    cache = DiskCache(MemoryBudget(0), 2)
    given = [torch.randn(1, 100_000)]
    cache[0] = given
    assert list(folder.iterdir()) == []  # the file has no name, so that none is left by whom the system kills
    filling = fill(folder)
    with pytest.raises(InputError, match=f"^cannot write to {folder}: No space left on device; set TMPDIR"):
        cache[1] = given
    filling.unlink()
    cache[1] = given
    assert all(torch.equal(cache[n][0], given[0]) for n in range(2))
    assert cache._file is not None
    cache._file.truncate(500_000)
    with pytest.raises(InputError, match=f"^cannot read from {folder}: .* cut off; set TMPDIR"):
        cache[1]


def test_a_spill_is_read_by_threads() -> None:
    cache = DiskCache(MemoryBudget(0), 64)
    for n in range(64):
        cache[n] = [torch.full((1, 200_000), float(n))]
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda n: cache[n][0], [*range(64)] * 3)
        assert all(bool((one == n % 64).all()) for n, one in enumerate(found))


def test_a_spill_copies_parts_alone() -> None:
    cache, whole = DiskCache(MemoryBudget(1 << 20), 1), torch.randn(2, 50)
    cache[0] = [whole[:1], whole]
    part, same = cache[0]
    assert same.data_ptr() == whole.data_ptr()
    assert part.untyped_storage().nbytes() == part.nbytes
    assert torch.equal(part, whole[:1])


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
