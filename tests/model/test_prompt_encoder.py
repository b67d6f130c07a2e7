from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from s2vnet.model.prompt_encoder import (
    PROMPT_MAPS,
    REACH_SLICES,
    SIGMA_SLICES,
    GridPrompt,
    PromptRasterizer,
)

K, SIZE, DEPTH = 4, (9, 11), 12
SLICES = torch.arange(DEPTH).float()
POSITIVE, NEGATIVE, BOX, WIDE = range(PROMPT_MAPS)


def _point(class_id: int, d: float, y: int, x: int, positive: bool = True) -> GridPrompt:
    return GridPrompt(class_id, positive, torch.tensor([[d, y, x]], dtype=torch.float32))


def rasterize_prompts(
    prompts: Sequence[GridPrompt], slices: Tensor, num_classes: int, size: tuple[int, int], reach: int = REACH_SLICES
) -> Tensor:
    rasterizer = PromptRasterizer(slices, num_classes, size, reach, "cpu")
    for prompt in prompts:
        rasterizer.add(prompt)
    return rasterizer.maps()


def test_without_prompts_maps_are_zero() -> None:
    assert not rasterize_prompts([], SLICES, K, SIZE).any()


def test_a_prompted_cell_is_exactly_one_for_its_class_only() -> None:
    maps = rasterize_prompts([_point(2, 5, 3, 4)], SLICES, K, SIZE)
    assert maps.shape == (DEPTH, K, PROMPT_MAPS, *SIZE)
    assert maps[5, 2, POSITIVE, 3, 4] == 1
    assert maps[:, [0, 1, 3], POSITIVE].abs().sum() == 0
    assert int((maps[:, :, POSITIVE] == 1).sum()) == 1
    assert maps.min() >= 0
    assert maps.max() == 1


def test_a_positive_prompt_is_negative_for_all_other_classes() -> None:
    maps = rasterize_prompts([_point(2, 5, 3, 4)], SLICES, K, SIZE)
    for rival in (0, 1, 3):
        assert torch.equal(maps[:, rival, NEGATIVE], maps[:, 2, POSITIVE])
    assert maps[:, 2, NEGATIVE].abs().sum() == 0


def test_falloff_reaches_neighbouring_slices_and_stops() -> None:
    found = rasterize_prompts([_point(1, 6, 4, 5)], SLICES, K, SIZE)[:, 1, POSITIVE, 4, 5]
    near = (SLICES - 6).abs() <= REACH_SLICES
    torch.testing.assert_close(found[near], torch.exp(-((SLICES[near] - 6) ** 2) / (2 * SIGMA_SLICES**2)))
    assert not found[~near].any()


def test_slices_out_of_reach_stay_empty() -> None:
    assert not rasterize_prompts([_point(1, 6, 4, 5)], SLICES[:3], K, SIZE).any()


def test_a_map_does_not_depend_on_other_slices() -> None:
    strokes = [_point(1, 6, 4, 5), _point(3, 2, 1, 1, positive=False)]
    few = torch.tensor([7.0, 2.0])
    assert torch.equal(rasterize_prompts(strokes, few, K, SIZE), rasterize_prompts(strokes, SLICES, K, SIZE)[[7, 2]])


def test_maps_of_many_cells_are_maxima() -> None:
    cells = torch.cartesian_prod(torch.tensor([2.0, 3.0]), torch.arange(9.0), torch.arange(3.0, 5.0))
    together = rasterize_prompts([GridPrompt(1, True, cells, "region")], SLICES, K, SIZE)
    alone = [
        rasterize_prompts([GridPrompt(1, True, cell[None], "region")], SLICES, K, SIZE)[:, 1, POSITIVE]
        for cell in cells
    ]
    torch.testing.assert_close(together[:, 1, POSITIVE], torch.stack(alone).amax(0))


def test_a_later_prompt_overrides_another_class() -> None:
    maps = rasterize_prompts([_point(1, 5, 3, 4), _point(2, 5, 3, 4)], SLICES, K, SIZE)
    assert maps[5, :, POSITIVE, 3, 4].tolist() == [0, 0, 1, 0]
    assert maps[5, :, NEGATIVE, 3, 4].tolist() == [1, 1, 0, 1]


@pytest.mark.parametrize("last", [True, False])
def test_a_later_prompt_overrides_an_opposite_one(last: bool) -> None:
    maps = rasterize_prompts([_point(1, 5, 3, 4, not last), _point(1, 5, 3, 4, last)], SLICES, K, SIZE)
    assert maps[5, 1, POSITIVE, 3, 4] == float(last)
    assert maps[5, 1, NEGATIVE, 3, 4] == float(not last)


def test_a_negative_prompt_affects_its_class_only() -> None:
    maps = rasterize_prompts([_point(1, 5, 3, 4, positive=False)], SLICES, K, SIZE)
    assert maps[5, 1, NEGATIVE, 3, 4] == 1
    assert maps[5, 1, WIDE, 3, 4] == -1
    maps[:, 1, [NEGATIVE, WIDE]] = 0
    assert not maps.any()


def test_wide_maps_extend_further_in_plane() -> None:
    maps = rasterize_prompts([_point(1, 5, 4, 5)], SLICES, K, SIZE)
    assert maps[5, 1, WIDE, 4, 5] == 1
    assert (maps[5, 1, WIDE] >= maps[5, 1, POSITIVE]).all()
    assert maps[5, 1, WIDE, 4, 10] > 0.6 > 0.1 > maps[5, 1, POSITIVE, 4, 10]
    assert not maps[:, [0, 2, 3], WIDE].any()


def test_only_wide_maps_extend_further_along_slices() -> None:
    strokes = [_point(1, 6, 4, 5), _point(2, 6, 0, 0, positive=False)]
    near, far = rasterize_prompts(strokes, SLICES, K, SIZE), rasterize_prompts(strokes, SLICES, K, SIZE, 5)
    others = [POSITIVE, NEGATIVE, BOX]
    assert torch.equal(near[:, :, others], far[:, :, others])
    assert far[:, 1, WIDE, 4, 5].nonzero().flatten().tolist() == list(range(1, 12))
    assert (far[:, 1, WIDE, 4, 5] >= near[:, 1, WIDE, 4, 5]).all()
    assert (far[1:6, 1, WIDE, 4, 5].diff() > 0).all()
    assert torch.equal(rasterize_prompts(strokes, SLICES, K, SIZE, 2), near)


def test_prompts_of_equal_weight_are_negative_for_each_other() -> None:
    maps = rasterize_prompts([_point(1, 5, 0, 0), _point(2, 5, 8, 10)], SLICES, K, SIZE)
    assert float(maps[5, 1, NEGATIVE, 8, 10]) == pytest.approx(1)
    assert float(maps[5, 2, NEGATIVE, 0, 0]) == pytest.approx(1)


def test_a_box_is_filled_between_its_corners() -> None:
    corners = torch.tensor([[2.0, 1.5, 2.0], [6.0, 4.0, 7.5]])
    maps = rasterize_prompts(
        [GridPrompt(3, True, corners, "box"), GridPrompt(3, True, corners + 1, "box")], SLICES, K, SIZE
    )
    wanted = torch.zeros(DEPTH, *SIZE)
    wanted[2:7, 2:5, 2:8] = 1
    wanted[3:8, 3:6, 3:9] = 1
    assert torch.equal(maps[:, 3, BOX], wanted)
    maps[:, 3, BOX] = 0
    assert not maps.any()


def test_two_classes_are_enough() -> None:
    maps = rasterize_prompts([_point(1, 0, 2, 2)], SLICES, 2, SIZE)
    assert torch.equal(maps[:, 0, NEGATIVE], maps[:, 1, POSITIVE])


def test_a_region_does_not_extend_beyond_its_outline() -> None:
    cells = torch.tensor([[5.0, y, x] for y in (2, 3, 4) for x in (3, 4, 5)])
    maps = rasterize_prompts([GridPrompt(2, True, cells, "region")], SLICES, K, SIZE)
    inside = torch.zeros(DEPTH, *SIZE, dtype=torch.bool)
    inside[5, 2:5, 3:6] = True
    assert (maps[:, 2, POSITIVE][inside] == 1).all()
    assert (maps[:, 2, POSITIVE][~inside] < 0.2).all()
    assert not maps[[4, 6]].any()
