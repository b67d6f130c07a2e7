"""Voxels, corners and counts of every kind of prompt."""

from __future__ import annotations

import pytest
from example_prompts import PROMPTS

from s2vnet.interactive.voxelize import is_box, num_prompt_voxels, prompt_corners, prompt_voxels
from s2vnet.prompts import Box, Lasso, Lock


def test_a_box_names_the_voxels_inside() -> None:
    voxels = prompt_voxels(Box(class_id=1, start=(1, 2, 3), stop=(2, 4, 5)))
    assert voxels.tolist() == [[1, 2, 3], [1, 2, 4], [1, 3, 3], [1, 3, 4]]


@pytest.mark.parametrize("name", [name for name in PROMPTS if name != "lock"])
def test_corners_have_the_bounding_box_of_the_voxels(name: str) -> None:
    prompt = PROMPTS[name]
    assert not isinstance(prompt, Lock)
    corners, voxels = prompt_corners(prompt), prompt_voxels(prompt)
    assert corners.min(0).tolist() == voxels.min(0).tolist()
    assert corners.max(0).tolist() == voxels.max(0).tolist()


def test_a_lasso_covers_its_edges_and_inside() -> None:
    lasso = Lasso(class_id=1, axis=2, vertices=((0, 0, 6), (0, 2, 6), (2, 2, 6), (2, 0, 6)))
    assert prompt_voxels(lasso).tolist() == [[i, j, 6] for i in range(3) for j in range(3)]


def test_number_of_voxels_counts_the_bounding_box_of_boxes_and_masks() -> None:
    counts = {name: num_prompt_voxels(PROMPTS[name]) for name in ("point", "scribble", "mask", "box")}
    assert counts == {"point": 1, "scribble": 3, "mask": 3 * 3 * 3, "box": 8 * 8 * 6}


def test_only_positive_boxes_bound_a_class() -> None:
    assert [name for name, prompt in PROMPTS.items() if is_box(prompt)] == ["box"]
    assert not is_box(Box(class_id=1, start=(0, 0, 0), stop=(1, 1, 1), positive=False))
