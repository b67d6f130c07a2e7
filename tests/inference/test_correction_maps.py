"""Windows are parts of the volume, and maps depend on what they show and not on where it lies or which class it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hand_made_correctors import block, segmented

from s2vnet.inference.correction_maps import SegmentedVolume, Window, WindowPrompt, window_maps
from s2vnet.model.corrector import CELL_MAPS, PIXEL_MAPS

SHAPE = (8, 40, 48)
NONE = np.empty((0, 3), np.intp)


def labels_of() -> torch.Tensor:
    labels = torch.zeros(SHAPE, dtype=torch.uint8)
    labels[2:6, 8:24, 8:20] = 1
    labels[1:7, 20:36, 24:40] = 2
    return labels


def prompt_at(*pixel: int, label: int = 1, positive: bool = True) -> WindowPrompt:
    return WindowPrompt(np.array([pixel]), positive, label, label, NONE, NONE)


@pytest.mark.parametrize("start", [(0, 0, 0), (2, 8, 12), (-3, -8, 20), (6, 36, 44), (-20, 4, 4)])
@pytest.mark.parametrize("zoom", [1, 2])
def test_a_window_is_the_volume_inside_and_padding_beyond(start: tuple[int, int, int], zoom: int) -> None:
    volume = torch.arange(8 * 40 * 48).reshape(SHAPE)
    window = Window(start, zoom, (4, 16, 12))
    crop = window.crop(volume, fill=-1)
    assert tuple(crop.shape) == window.extent
    padded = torch.full([n + 200 for n in SHAPE], -1)
    padded[100:108, 100:140, 100:148] = volume
    d, y, x = (slice(100 + a, 100 + a + n) for a, n in zip(start, window.extent, strict=True))
    torch.testing.assert_close(crop, padded[d, y, x])


def test_the_overlap_is_what_a_window_and_a_volume_share() -> None:
    volume = torch.arange(8 * 40 * 48).reshape(SHAPE)
    for start in ((0, 0, 0), (-3, -8, 20), (6, 36, 44), (-20, 4, 4)):
        window = Window(start, 2, (4, 16, 12))
        inside, outside = window.overlap(SHAPE)
        assert torch.equal(window.crop(volume)[inside], volume[outside])
        assert int((window.crop(volume, fill=-1) >= 0).sum()) == volume[outside].numel()


def test_enlarging_keeps_means_and_undoes_zooming_of_constants() -> None:
    maps = torch.rand(4, 8, 8)
    assert Window((0, 0, 0), 1, (4, 8, 8)).enlarge(maps) is maps
    window = Window((0, 0, 0), 2, (4, 8, 8))
    assert window.enlarge(maps).shape == window.extent
    torch.testing.assert_close(window.pool(window.enlarge(torch.ones(4, 8, 8))), torch.ones(4, 8, 8))


def test_only_slices_of_the_window_and_the_prompt_are_read() -> None:
    labels, read = labels_of(), set()

    class Watched:
        shape = SHAPE

        def __getitem__(self, index: slice, /) -> torch.Tensor:
            read.update(range(*index.indices(SHAPE[0])))
            return labels[index]

    window, prompt = Window((4, 0, 0), 1, (3, 40, 48)), prompt_at(2, 12, 12)
    found = window_maps(segmented(labels), Watched(), prompt, window)
    assert read == {2, 4, 5, 6}
    for one, two in zip(found, window_maps(segmented(labels), labels, prompt, window), strict=True):
        assert torch.equal(one, two)


def test_a_window_of_the_mask_grid_covers_the_same_pixels() -> None:
    cells = torch.rand(8, 3, 20, 24)
    pixels = cells.repeat_interleave(2, 2).repeat_interleave(2, 3)
    window = Window((3, -4, 36), 1, (8, 16, 16))
    crop = window.crop(cells, 2)
    torch.testing.assert_close(crop.repeat_interleave(2, 2).repeat_interleave(2, 3), window.crop(pixels))


def test_pooling_averages_what_a_pixel_covers() -> None:
    maps = torch.rand(4, 32, 24)
    torch.testing.assert_close(Window((0, 0, 0), 1, (4, 32, 24)).pool(maps), maps)
    pooled = Window((0, 0, 0), 2, (4, 16, 12)).pool(maps)
    torch.testing.assert_close(pooled, maps.reshape(4, 16, 2, 12, 2).mean((2, 4)))


@pytest.mark.parametrize("zoom", [1, 2])
def test_pixels_are_found_again_in_a_window(zoom: int) -> None:
    pixels = np.argwhere(np.random.default_rng(0).random(SHAPE) < 0.02)
    window = Window((2, 8, -4), zoom, (4, 16, 16))
    mask = torch.zeros(SHAPE)
    mask[tuple(pixels.T)] = 1
    shown = window.pool(window.crop(mask)) > 0
    found = np.zeros(shown.shape, bool)
    found[tuple(window.to_window(pixels).T)] = True
    np.testing.assert_array_equal(found, shown.numpy())


def test_a_window_around_a_place_has_it_in_its_middle() -> None:
    window = Window.around((30.0, 101.0, 57.0), 2)
    middle = np.array(window.start) + np.array(window.extent) / 2
    assert np.abs(middle - (30, 101, 57)).max() <= 2
    assert window.start[1] % 4 == window.start[2] % 4 == 0


def test_maps_have_their_names_shapes_and_ranges() -> None:
    window = Window((-2, -8, 0), 1, (12, 32, 32))
    labels = labels_of()
    maps = window_maps(segmented(labels), labels, prompt_at(3, 12, 12), window)
    assert tuple(maps.pixels.shape) == (12, len(PIXEL_MAPS), 32, 32)
    assert tuple(maps.cells.shape) == (12, len(CELL_MAPS), 16, 16)
    assert maps.pixels.isfinite().all()
    assert maps.cells.isfinite().all()
    own, eligible = maps.pixels[:, 2], maps.pixels[:, 3]
    assert not (own * eligible).any()
    np.testing.assert_array_equal(eligible > 0, maps.eligible)
    valid = maps.cells[:, CELL_MAPS.index("valid")]
    assert not valid[:2].any()
    assert not valid[:, :4].any()
    assert valid[2:10, 4:].all()
    assert maps.cells[5, CELL_MAPS.index("prompt near"), 10, 6] == 1


def test_voxels_that_may_change_are_those_that_are_not_what_the_prompt_says() -> None:
    labels, window = labels_of(), Window((0, 0, 0), 1, (8, 40, 48))
    for positive in (True, False):
        maps = window_maps(segmented(labels), labels, prompt_at(3, 12, 12, positive=positive), window)
        np.testing.assert_array_equal(maps.eligible.numpy(), ((labels != 1) if positive else (labels == 1)).numpy())


def test_the_classes_have_no_order() -> None:
    labels, window = labels_of(), Window((0, 0, 0), 1, (8, 40, 48))
    volume, other = segmented(labels), torch.tensor([0, 3, 1, 2])
    inverse = torch.argsort(other)
    renamed = SegmentedVolume(volume.image, volume.probabilities[:, inverse], volume.features, volume.slice_distance)
    one = window_maps(volume, labels, prompt_at(3, 22, 12), window)
    two = window_maps(renamed, other.byte()[labels.long()], prompt_at(3, 22, 12, label=3), window)
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("zoom", [1, 2])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_maps_of_a_mirrored_volume_are_mirrored(axis: int, zoom: int) -> None:
    labels = labels_of()
    volume, n = segmented(labels), SHAPE[axis]

    def turned(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.flip(axis - 3 if axis else 0)

    tensors = (turned(t).contiguous() for t in (volume.image, volume.probabilities, volume.features))
    mirrored = SegmentedVolume(*tensors, volume.slice_distance)
    window, prompt = Window((1, -4, 8), zoom, (6, 16, 16)), prompt_at(3, 12, 12)
    start, pixels = list(window.start), prompt.pixels.copy()
    start[axis] = n - start[axis] - window.extent[axis]
    pixels[:, axis] = n - 1 - pixels[:, axis]
    one = window_maps(volume, labels, prompt, window)
    there = Window((start[0], start[1], start[2]), zoom, window.size)
    two = window_maps(mirrored, turned(labels), prompt._replace(pixels=pixels), there)
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(turned(b), a)


def test_earlier_prompts_are_told_apart() -> None:
    labels, window = labels_of(), Window((0, 0, 0), 1, (8, 40, 48))
    same, other = np.array([[3, 30, 30]]), np.argwhere(block(SHAPE, (5, 6), (2, 4), (2, 4)))
    prompt = prompt_at(3, 12, 12)._replace(same=same, other=other)
    cells = window_maps(segmented(labels), labels, prompt, window).cells
    near_same, near_other = (cells[:, CELL_MAPS.index(f"{name} class near")] for name in ("same", "other"))
    assert near_same[3, 15, 15] == near_same.max() == 1
    assert near_other[5, 1, 1] == near_other.max() == 1
