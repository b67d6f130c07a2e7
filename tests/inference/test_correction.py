"""A change is connected to its prompt, stays within what may change, and is followed as far as it goes."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hand_made_correctors import block, everything, like_intensity, nothing, segmented

from s2vnet.inference.correction import NO_CHANGE, Change, ChangeLimits, Part, connected_to, find_change
from s2vnet.inference.correction_maps import Pixels, WindowPrompt

NONE = np.empty((0, 3), np.intp)


def ask(*pixels: tuple[int, int, int], label: int = 1, positive: bool = True) -> WindowPrompt:
    return WindowPrompt(np.array(pixels), positive, label, label, NONE, NONE)


def whole(change: Change, shape: tuple[int, ...], prompt: WindowPrompt, labels: torch.Tensor) -> np.ndarray:  # type: ignore[type-arg]
    """Mask (D, H, W) of the pixels that change their label."""
    logits = change[slice(0, shape[0])][:, 0]
    eligible = (labels != prompt.label) if prompt.positive else (labels == prompt.label)
    return ((logits > 0) & eligible).numpy()


def test_without_a_change_nothing_changes() -> None:
    labels = torch.zeros((6, 32, 32), dtype=torch.uint8)
    change = find_change(nothing, segmented(labels), labels, ask((3, 10, 10)))
    assert (change.logits <= 0).all()


@pytest.mark.parametrize("positive", [True, False])
def test_the_change_is_the_connected_region_and_keeps_within_what_may_change(positive: bool) -> None:
    shape = (10, 64, 64)
    labels = torch.zeros(shape, dtype=torch.uint8)
    first, second = block(shape, (2, 8), (10, 30), (10, 30)), block(shape, (2, 8), (10, 30), (40, 60))
    labels[torch.from_numpy(first | second)] = 0 if positive else 1
    image = torch.from_numpy(first | second).float() * 2
    prompt = ask((5, 20, 20), positive=positive)
    change = find_change(like_intensity, segmented(labels, image), labels, prompt)
    np.testing.assert_array_equal(whole(change, shape, prompt, labels), first)
    far = ask((5, 20, 50), positive=positive)
    change = find_change(like_intensity, segmented(labels, image), labels, far)
    np.testing.assert_array_equal(whole(change, shape, far, labels), second)


@pytest.mark.parametrize("start", [0, 3, 32, 60, 63])
def test_a_change_is_followed_along_the_slices_and_told_of_on_the_way(start: int) -> None:
    shape = (64, 24, 24)
    column = block(shape, (0, 64), (6, 18), (6, 18))
    labels = torch.zeros(shape, dtype=torch.uint8)
    volume, prompt, told = (
        segmented(labels, torch.from_numpy(column).float() * 2),
        ask((start, 12, 12))._replace(class_id=None),
        [],
    )
    windows = []

    def counting(pixels: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        windows.append(len(told))
        return like_intensity(pixels, cells)

    change = find_change(counting, volume, labels, prompt, lambda c: told.append(whole(c(), shape, prompt, labels)))
    np.testing.assert_array_equal(whole(change, shape, prompt, labels), column)
    assert windows == list(range(len(told) + 1))  # before each further window
    assert len(told) > 3
    for earlier, later in itertools.pairwise([*told, column]):
        assert (later | ~earlier).all()


def test_a_computation_stops_where_it_is_told_of() -> None:
    labels = torch.zeros((64, 24, 24), dtype=torch.uint8)

    def stop(change: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_change(everything, segmented(labels), labels, ask((32, 12, 12)), stop)


def test_a_higher_threshold_and_a_shorter_reach_change_less() -> None:
    shape = (20, 64, 64)
    labels = torch.zeros(shape, dtype=torch.uint8)
    volume, prompt = segmented(labels), ask((10, 32, 32))

    def changed(limits: ChangeLimits) -> np.ndarray:  # type: ignore[type-arg]
        return whole(find_change(everything, volume, labels, prompt, limits=limits), shape, prompt, labels)

    wide, near, strict = changed(ChangeLimits()), changed(ChangeLimits(reach_mm=16)), changed(ChangeLimits(threshold=6))
    assert near.any()
    assert not (near & ~wide).any()
    assert near.sum() < wide.sum()
    assert not strict.any()


def test_a_thin_change_has_to_be_surer() -> None:
    shape = (6, 64, 64)
    labels = torch.zeros(shape, dtype=torch.uint8)
    thick, thin = block(shape, (1, 5), (8, 28), (8, 28)), block(shape, (1, 5), (40, 44), (8, 32))
    volume, prompts = (
        segmented(labels, torch.from_numpy(thick | thin).float() * 2),
        (ask((3, 18, 18)), ask((3, 41, 20))),
    )

    def changed(prompt: WindowPrompt, penalty: float) -> np.ndarray:  # type: ignore[type-arg]
        limits = ChangeLimits(thin_penalty=penalty)
        return whole(find_change(like_intensity, volume, labels, prompt, limits=limits), shape, prompt, labels)

    np.testing.assert_array_equal(changed(prompts[0], 3.0), thick)
    assert not changed(prompts[1], 3.0).any()
    np.testing.assert_array_equal(changed(prompts[1], 1.0), thin)
    np.testing.assert_array_equal(changed(prompts[1]._replace(class_id=None), 3.0), thin)  # of no class of the network


def test_a_wide_change_is_found_at_half_the_resolution() -> None:
    shape = (4, 200, 200)
    wide = block(shape, (1, 3), (20, 180), (20, 180))
    labels = torch.zeros(shape, dtype=torch.uint8)
    sizes = []

    def watching(pixels: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        sizes.append(float(cells[0, 0, 10, 0, 0]))
        return like_intensity(pixels, cells)

    prompt = ask((2, 100, 100))._replace(class_id=None)
    change = find_change(watching, segmented(labels, torch.from_numpy(wide).float() * 2), labels, prompt)
    np.testing.assert_array_equal(whole(change, shape, prompt, labels), wide)
    assert sizes == [0, 1]


@pytest.mark.parametrize(("own", "pixel_size"), [(False, 1.0), (False, 2.0), (True, 1.0)])
def test_a_class_of_the_network_changes_within_reach_only(own: bool, pixel_size: float) -> None:
    shape = (60, 96, 96)
    labels = torch.zeros(shape, dtype=torch.uint8)
    volume = replace(segmented(labels), pixel_size=pixel_size)
    prompt = ask((30, 48, 48))._replace(class_id=None if own else 1)
    changed = whole(find_change(everything, volume, labels, prompt), shape, prompt, labels)
    offsets = (np.argwhere(changed) - (30, 48, 48)) * np.array([volume.slice_distance, 1, 1]) * pixel_size
    farthest = np.sqrt((offsets**2).sum(1)).max()
    reach = ChangeLimits.reach_mm
    assert (farthest > reach) == own
    assert own or farthest > reach - 2 * pixel_size * max(1, volume.slice_distance)


def test_the_change_contains_the_prompt_wherever_it_lies() -> None:
    labels = torch.zeros((5, 40, 40), dtype=torch.uint8)
    volume = segmented(labels)
    for pixel in [(0, 0, 0), (4, 39, 39), (2, 0, 39), (4, 20, 1)]:
        prompt = ask(pixel)
        assert whole(find_change(everything, volume, labels, prompt), (5, 40, 40), prompt, labels)[pixel]


def test_slices_beyond_a_change_do_not_change() -> None:
    first = Part((slice(3, 5), slice(0, 4), slice(2, 4)), torch.ones(2, 4, 2))
    second = Part((slice(4, 5), slice(1, 3), slice(1, 3)), torch.full((1, 2, 2), 0.5))
    change = Change([first, second], (8, 6))
    assert change.block() == (slice(3, 5), slice(0, 4), slice(1, 4))
    planes = change[slice(2, 6)]
    assert planes.shape == (4, 1, 8, 6)
    assert planes[:, 0, 1, 2].tolist() == [NO_CHANGE, 1, 1, NO_CHANGE]
    assert planes[2, 0, 1].tolist() == [NO_CHANGE, 0.5, 1, 1, NO_CHANGE, NO_CHANGE]
    assert Change([Part(first.block, -first.logits)], (8, 6)).block() is None


def test_parts_that_touch_a_prompt_or_lie_beside_it() -> None:
    mask = block((3, 9, 9), (0, 3), (0, 3), (0, 3)) | block((3, 9, 9), (1, 2), (6, 9), (6, 9))

    def sizes(*pixel: int) -> int:
        found: Pixels = np.array([pixel])
        return int(connected_to(mask, found).sum())

    assert [sizes(0, 0, 0), sizes(1, 3, 3), sizes(1, 5, 5), sizes(0, 7, 7), sizes(1, 4, 4)] == [27, 27, 9, 0, 0]
    assert int(connected_to(mask, np.array([[0, 0, 0], [1, 7, 7]])).sum()) == 36
