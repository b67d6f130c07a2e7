"""Rules of a prompt hold for any volume, any labels, any log and any corrector."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import plan_of
from scipy import ndimage
from torch import Tensor

from s2vnet.data.slice_grid import SliceGrid
from s2vnet.inference.correction import ChangeLimits
from s2vnet.inference.correction_maps import SegmentedVolume
from s2vnet.inference.segmentation import Segmentation
from s2vnet.interactive.corrections import Corrections
from s2vnet.interactive.label_changes import Labels
from s2vnet.interactive.prompt_state import PromptState
from s2vnet.interactive.voxelize import is_box, is_prompt, prompt_voxels
from s2vnet.io.geometry import Geometry
from s2vnet.prompts import Box, Entry, Extent, Lasso, Lock, Mask, Point, Prompt, Scribble

CLASSES = 3
NEAR = ChangeLimits(near_mm=2.0, reach_mm=4.0)


class Case(NamedTuple):
    corrections: Corrections
    labels: Labels


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A volume of noise and blocks, and a corrector that answers by chance."""
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    i, j, k = (draw(st.integers(5, 12)) for _ in range(3))
    signs, spacing = rng.choice([-1.0, 1.0], 3), rng.choice([0.7, 1.0, 1.6], 3)
    geometry = Geometry((i, j, k), np.diag([*(signs * spacing), 1.0]))
    grid = SliceGrid.from_plan(geometry, plan_of(stem_stride=2))
    size = (grid.depth, *grid.padded)
    cells = (grid.depth, CLASSES, *(n // 2 for n in grid.padded))
    scores = ndimage.gaussian_filter(rng.normal(size=cells), (1, 0, 1, 1)) * 8
    image = torch.from_numpy(rng.normal(size=size)).float()
    features = torch.from_numpy(rng.normal(size=(grid.depth, 4, *cells[2:]))).float()
    probabilities = torch.from_numpy(scores).softmax(1).half()
    volume = SegmentedVolume(image, probabilities, features, grid.slice_distance, grid.pixel_size)
    share, seed = draw(st.sampled_from([0.0, 0.4, 0.7, 1.0])), draw(st.integers(0, 1000))

    def by_chance(pixels: Tensor, cells: Tensor) -> Tensor:
        noise = np.random.default_rng(seed).random(pixels[:, :, 0].shape)
        return torch.from_numpy(np.where(noise < share, 3.0, -3.0)).float()

    automatic = Segmentation(grid, probabilities, dict.fromkeys(range(CLASSES), ""))
    corrections = Corrections(by_chance, grid, volume, automatic, CLASSES, NEAR)
    return Case(corrections, np.asarray(automatic.labels().data, np.uint8))


def entries(shape: tuple[int, int, int], seed: int, count: int) -> list[Entry]:
    """Entries of every kind at random places."""
    rng = np.random.default_rng(seed)

    def voxel() -> tuple[int, int, int]:
        a, b, c = (int(rng.integers(n)) for n in shape)
        return a, b, c

    def block() -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        low, high = np.sort([voxel(), voxel()], 0)
        return tuple(low.tolist()), tuple((high + 1).tolist())  # type: ignore[return-value]

    found: list[Entry] = []
    for _ in range(count):
        class_id, positive = int(rng.integers(CLASSES + 1)), bool(rng.random() < 0.6)
        start, stop = block()
        inside = np.zeros(shape, bool)
        inside[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
        axis, corner = int(rng.integers(3)), voxel()
        polygon = [tuple(np.where(np.arange(3) == axis, corner, voxel()).tolist()) for _ in range(3)]
        common = {"class_id": class_id, "positive": positive}
        kinds: list[Entry] = [
            Point(**common, voxel=voxel()),
            Point(**common, voxel=voxel()),
            Scribble(**common, voxels=(voxel(), voxel())),
            Lasso(**common, axis=axis, vertices=polygon),
            Mask.from_array(inside, class_id, positive),
            Box(**common, start=start, stop=stop),
            Lock(class_id=class_id, locked=positive),
        ]
        if class_id:
            kinds.append(Extent.from_array(inside, class_id))
        found.append(kinds[int(rng.integers(len(kinds)))])
    return found


def apply(case: Case, labels: Labels, state: PromptState, entry: Entry) -> Labels:
    change = case.corrections.change(labels, state, entry)
    assert (np.diff(change.voxels) > 0).all()
    np.testing.assert_array_equal(labels.reshape(-1)[change.voxels], change.before)
    assert (change.before != change.after).all()
    after = labels.copy()
    after.reshape(-1)[change.voxels] = change.after
    return after


@settings(deadline=None, max_examples=40)
@given(cases(), st.integers(0, 10_000))
def test_locked_classes_and_prompted_voxels_stay(case: Case, seed: int) -> None:
    labels, state = case.labels, PromptState()
    said: dict[tuple[int, ...], Prompt] = {}
    for entry in entries(case.labels.shape, seed, 6):  # type: ignore[arg-type]
        after = apply(case, labels, state, entry)
        for class_id in state.locked:
            np.testing.assert_array_equal(after == class_id, labels == class_id)
        if isinstance(entry, Extent):
            said.clear()
        if is_prompt(entry) and not is_box(entry):
            voxels = prompt_voxels(entry)
            for voxel in map(tuple, voxels.tolist()):
                said.pop(voxel, None)
            for voxel in map(tuple, voxels.tolist()):
                if labels[voxel] in state.locked or (entry.positive and entry.class_id in state.locked):
                    continue
                if entry.positive:
                    assert after[voxel] == entry.class_id
                    said[voxel] = entry
                elif not set(range(CLASSES)) <= state.locked | {entry.class_id}:
                    assert after[voxel] != entry.class_id
            for voxel, earlier in said.items():
                assert after[voxel] == earlier.class_id
        if is_box(entry):
            said.clear()
        labels, state = after, state.add(entry, case.corrections.grid)


@settings(deadline=None, max_examples=40)
@given(cases(), st.integers(0, 10_000))
def test_a_change_is_connected_to_its_prompt_and_within_reach(case: Case, seed: int) -> None:
    grid = case.corrections.grid
    for entry in entries(case.labels.shape, seed, 3):  # type: ignore[arg-type]
        if not is_prompt(entry) or is_box(entry):
            continue
        after, voxels = apply(case, case.labels, PromptState(), entry), prompt_voxels(entry)
        changed = after != case.labels
        if not changed.any():
            continue
        assert ((after == entry.class_id) if entry.positive else (case.labels == entry.class_id))[changed].all()
        components, _ = ndimage.label(changed)
        assert set(np.unique(components[changed])) == set(np.unique(components[tuple(voxels.T)])) - {0}
        if entry.class_id < CLASSES:
            spacing = np.array(grid.geometry.spacing)
            found = np.argwhere(changed)
            away = np.maximum(0, np.maximum(voxels.min(0) - found, found - voxels.max(0))) * spacing
            # a voxel is interpolated from pixels next to it
            assert np.sqrt((away**2).sum(1)).max() <= NEAR.reach_mm + 2 * np.linalg.norm([*spacing, grid.pixel_size])


@settings(deadline=None, max_examples=40)
@given(cases(), st.integers(0, 10_000))
def test_what_loses_a_class_takes_the_runner_up(case: Case, seed: int) -> None:
    rng = np.random.default_rng(seed)
    voxel = tuple(int(rng.integers(n)) for n in case.labels.shape)
    class_id = int(case.labels[voxel])
    other = int(rng.choice([c for c in range(CLASSES) if c != class_id]))
    probabilities = case.corrections.automatic.probabilities().data
    denial = Point(class_id=class_id, positive=False, voxel=voxel)  # type: ignore[arg-type]
    for state in (PromptState(), PromptState(locked=frozenset({other}))):
        after = apply(case, case.labels, state, denial)
        changed = after != case.labels
        assert changed[voxel]
        scores = probabilities[:, changed]
        scores[[class_id, *state.locked]] = -1
        given_to = after[changed]
        np.testing.assert_allclose(scores[given_to, np.arange(len(given_to))], scores.max(0), atol=1e-4)
