"""Clips: a function of seed and index, balanced over classes, rising or falling through one case."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import ndimage

from s2vnet.config import TrainConfig
from s2vnet.data.clips import MAX_INTENSITY_SHIFT, Clip, ClipDataset, class_intensity_shifts, collate
from s2vnet.data.label_definitions import IGNORED
from s2vnet.data.plan import Plan
from s2vnet.data.preprocess import Case, preprocess, with_neighbours
from s2vnet.io.geometry import Geometry, LabelMap, Volume

MakeCase = Callable[[npt.NDArray[np.uint8]], Case]
SIDE = 16


@pytest.fixture
def make_case(plan: Plan) -> MakeCase:
    """``make_case(labels)``: a case whose labels (D, 16, 16) are given; its image is its slice number."""

    def build(labels: npt.NDArray[np.uint8]) -> Case:
        geometry = Geometry((SIDE, SIDE, len(labels)), np.eye(4))
        image = np.broadcast_to(np.arange(len(labels), dtype=np.float32), geometry.shape)[None].copy()
        return preprocess(Volume(image, geometry), plan, LabelMap(np.moveaxis(labels, 0, -1), geometry))

    return build


@pytest.fixture
def numbered(make_case: MakeCase) -> Callable[[int], Case]:
    """``numbered(depth)``: a case whose slice d is all of class d + 1, so that labels tell which slices a clip has."""

    def build(depth: int) -> Case:
        labels = np.arange(1, depth + 1, dtype=np.uint8)[:, None, None]
        return make_case(np.broadcast_to(labels, (depth, SIDE, SIDE)).copy())

    return build


def clips_of(cases: list[Case], count: int = 60, **config: Any) -> ClipDataset:
    settings = {"clip_length": 4, "max_slice_step": 3, **config}
    return ClipDataset(cases, (SIDE, SIDE), 1, TrainConfig(**settings), count)


def slices_in(clip: Clip) -> list[int]:
    """Slice numbers of a clip of a numbered case."""
    return [int(labels.max()) - 1 for labels in clip.labels]


def equal(a: Clip, b: Clip) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_an_item_depends_on_seed_and_index_alone(numbered: Callable[[int], Case]) -> None:
    cases = [numbered(9), numbered(12)]
    used, fresh, other = clips_of(cases), clips_of(cases, count=500), clips_of(cases, seed=1)
    for index in (7, 0, 3):
        used[index]
    torch.manual_seed(5)
    np.random.seed(5)
    assert all(equal(used[index], fresh[index]) for index in (5, 2, 59))
    assert not any(equal(used[index], other[index]) for index in range(5))
    assert not equal(used[0], used[1])
    assert (len(used), len(fresh)) == (60, 500)


@pytest.mark.parametrize("anywhere", [0.0, 1.0])
def test_steps_are_signed_and_stay_inside(numbered: Callable[[int], Case], anywhere: float) -> None:
    clips = clips_of([numbered(12)], count=80, anywhere_fraction=anywhere)
    steps = set()
    seen: set[int] = set()
    for index in range(len(clips)):
        clip, found = clips[index], slices_in(clips[index])
        step = int(clip.step)
        assert np.diff(found).tolist() == [step] * 3
        steps.add(step)
        seen |= set(found)
    assert steps == {-3, -2, -1, 1, 2, 3}
    assert seen == set(range(12))


@pytest.mark.parametrize(("depth", "rising"), [(1, [0, 0, 0, 0]), (2, [0, 1, 1, 1]), (3, [0, 1, 2, 2])])
def test_short_volumes_repeat_their_last_slice(numbered: Callable[[int], Case], depth: int, rising: list[int]) -> None:
    clips = clips_of([numbered(depth)], count=20)
    found = {(int(clip.step), tuple(slices_in(clip))) for clip in (clips[i] for i in range(20))}
    assert found == {(1, tuple(rising)), (-1, tuple(rising[::-1]))}


@pytest.mark.parametrize("depth", [4, 6, 7])
def test_the_step_shrinks_to_what_fits(numbered: Callable[[int], Case], depth: int) -> None:
    clips = clips_of([numbered(depth)], count=30)
    assert {abs(int(clips[i].step)) for i in range(30)} == set(range(1, (depth - 1) // 3 + 1))


def test_clips_of_one_slice(numbered: Callable[[int], Case]) -> None:
    clips = clips_of([numbered(5)], clip_length=1)
    assert {slices_in(clips[i])[0] for i in range(60)} == set(range(5))
    assert all(int(clips[i].step) != 0 for i in range(10))


def test_all_clips_of_some_steps_are_of_independent_slices(numbered: Callable[[int], Case]) -> None:
    cases = [numbered(9), numbered(12)]
    clips = clips_of(cases, count=400, slice_fraction=0.4, batch_size=2)
    steps = [int(clips[i].step) for i in range(400)]
    assert 0.25 < np.mean([step == 0 for step in steps]) < 0.55
    assert all((a == 0) == (b == 0) for a, b in zip(steps[::2], steps[1::2], strict=True))
    scattered = [slices_in(clips[i]) for i, step in enumerate(steps) if step == 0]
    assert all(len(slices) == 4 for slices in scattered)
    assert any(len(set(np.diff(slices))) > 1 for slices in scattered)


def test_classes_are_balanced(make_case: MakeCase) -> None:
    common = np.zeros((20, SIDE, SIDE), np.uint8)
    common[:, 4:12, 4:12] = 1
    rare = common.copy()
    rare[10] = 2
    clips = clips_of(
        [make_case(common)] * 4 + [make_case(rare)], 150, anywhere_fraction=0, boundary_fraction=0, max_slice_step=1
    )
    share = np.mean([bool((clips[i].labels == 2).any()) for i in range(150)])
    assert 0.4 < share < 0.7


def test_boundary_clips_hold_the_first_or_last_slice_of_a_class(make_case: MakeCase) -> None:
    labels = np.zeros((21, SIDE, SIDE), np.uint8)
    labels[5:16, 7:9, 7:9] = 1
    labels[[5, 15]] = 1
    config = {"anywhere_fraction": 0, "max_slice_step": 1, "clip_length": 3}

    def wide(clips: ClipDataset) -> list[bool]:
        return [bool((clips[i].labels.float().mean((1, 2)) > 0.5).any()) for i in range(60)]

    assert all(wide(clips_of([make_case(labels)], boundary_fraction=1, **config)))
    assert not all(wide(clips_of([make_case(labels)], boundary_fraction=0, **config)))


def test_cases_without_any_class_train_background(make_case: MakeCase) -> None:
    clips = clips_of([make_case(np.zeros((6, SIDE, SIDE), np.uint8))], anywhere_fraction=0)
    assert not any(clips[i].labels.any() for i in range(5))


def test_cases_without_labels_are_left_out(numbered: Callable[[int], Case]) -> None:
    case = numbered(6)
    bare = Case("bare", case.image, None, case.grid)
    assert [c.name for c in clips_of([bare, case]).cases] == [case.name]


def test_batches_stack_clips(numbered: Callable[[int], Case]) -> None:
    clips = clips_of([numbered(6)])

    batch = collate([clips[0], clips[1], clips[2]])

    assert batch.slices.shape == (3, 4, 3, SIDE, SIDE), "each slice brings a neighbour on either side"
    assert batch.labels.shape == (3, 4, SIDE, SIDE)
    assert batch.step.shape == (3,)
    assert equal(Clip(*(t[1] for t in batch)), clips[1])


def test_shifts_are_one_step_per_class_and_the_same_in_every_slice_that_shows_it(make_case: MakeCase) -> None:
    labels = np.zeros((6, SIDE, SIDE), np.uint8)
    labels[1:5, 2:8, 2:8], labels[2:4, 10:15, 4:12] = 1, 2
    case = make_case(labels)
    found = class_intensity_shifts(case, np.array([1, 3]), 1, np.random.default_rng(0))
    assert found.shape == (2, 3, SIDE, SIDE)
    shown = with_neighbours(labels[None].astype(np.float32), np.array([1, 3]), 1)
    inside = {k: found[ndimage.minimum_filter(shown, (1, 1, 3, 3)) == k] for k in (1, 2)}
    far = found[ndimage.maximum_filter(shown, (1, 1, 3, 3)) == 0]
    assert (far == 0).all()
    for values in inside.values():
        assert 0 < np.abs(values[0]) <= MAX_INTENSITY_SHIFT
        np.testing.assert_allclose(values, values[0], rtol=1e-5)
    assert np.abs(found).max() <= MAX_INTENSITY_SHIFT
    plain, shifted = (clips_of([case], count=1, shift_fraction=share)[0] for share in (0, 1))
    assert not torch.equal(plain.slices, shifted.slices)


def test_ignored_pixels_are_no_class(make_case: MakeCase) -> None:
    labels = np.full((6, SIDE, SIDE), IGNORED, np.uint8)
    labels[2, :4] = 1
    case = make_case(labels)
    clips = clips_of([case], anywhere_fraction=0.0)
    assert clips.extents == [{1: (2, 2)}]
    assert all((clips[i].labels == 1).any() for i in range(20))
    shifts = class_intensity_shifts(case, [5], 0, np.random.default_rng(0))
    assert not shifts.any()
