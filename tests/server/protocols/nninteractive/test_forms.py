"""What clients send becomes voxels in the image, or an error of one line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from s2vnet.errors import InputError
from s2vnet.prompts import Voxel
from s2vnet.server.protocols.nninteractive.forms import BoxInteraction, MaskInteraction, PointInteraction

SHAPE = (7, 9, 11)
numbers = st.one_of(st.floats(-20, 20), st.integers(-20, 20), st.floats(), st.integers())


def box(*edges: Any) -> BoxInteraction:
    return BoxInteraction(bbox_coords=edges, include_interaction=True)


@given(st.tuples(numbers, numbers, numbers))
def test_a_point_is_the_nearest_voxel_or_outside(position: Any) -> None:
    try:
        voxel = PointInteraction(coordinates=position, include_interaction=True).voxel(SHAPE)
    except ValidationError:
        assert any(not abs(c) <= 2**31 for c in position)
    except InputError:
        assert any(not -0.5 <= c < n - 0.5 for c, n in zip(position, SHAPE, strict=True))
    else:
        assert all(abs(v - c) <= 0.5 for v, c in zip(voxel, position, strict=True))
        assert all(0 <= v < n for v, n in zip(voxel, SHAPE, strict=True))


@given(st.tuples(*[st.tuples(numbers, numbers)] * 3))
def test_a_box_is_cut_to_the_image_in_either_order(edges: Any) -> None:
    corners: list[tuple[Voxel, Voxel] | str] = []
    for pairs in (edges, [pair[::-1] for pair in edges]):
        try:
            corners.append(box(*pairs).corners(SHAPE))
        except (ValidationError, InputError) as error:
            corners.append(type(error).__name__)
    assert corners[0] == corners[1]
    if not isinstance(corners[0], str):
        for start, stop, n, pair in zip(*corners[0], SHAPE, edges, strict=True):
            assert 0 <= start < stop <= n
            assert min(pair) - 1 <= start
            assert stop <= max(pair) + 1


@pytest.mark.parametrize("axis", range(3))
def test_an_empty_axis_is_named(axis: int) -> None:
    edges = [[1, 3], [1, 3], [1, 3]]
    edges[axis] = [2, 2]
    with pytest.raises(InputError, match=f"empty along axis {axis}"):
        box(*edges).corners(SHAPE)


def test_whole_numbers_are_kept_and_halves_go_up() -> None:
    assert box([1, 3], [0, 9], [2.5, 4.5]).corners(SHAPE) == ((1, 0, 3), (3, 9, 5))
    assert box([3.1, 3.3], [0, 9], [0, 11]).corners(SHAPE) == ((3, 0, 0), (4, 9, 11))


@given(st.tuples(*[st.tuples(st.integers(-4, 12), st.integers(1, 9))] * 3), st.integers(0, 2**20))
def test_a_drawing_lands_where_its_box_says(spans: Any, bits: int) -> None:
    drawing = np.random.default_rng(bits).random([n for _, n in spans]) < 0.4
    form = MaskInteraction(include_interaction=True, interaction_bbox=[(a, a + n) for a, n in spans])
    padded = np.zeros([31] * 3, bool)
    padded[tuple(slice(10 + a, 10 + a + n) for a, n in spans)] = drawing
    expected = np.argwhere(padded[tuple(slice(10, 10 + n) for n in SHAPE)])
    if len(expected):
        np.testing.assert_array_equal(form.voxels(drawing, SHAPE), expected)
    else:
        with pytest.raises(InputError):
            form.voxels(drawing, SHAPE)


@pytest.mark.parametrize("edges", [None, ((0, 3), (0, 3), (0, 4)), ((0, 3), (0, 3), (0, 2)), ((0, 7), (0, 9), (0, 11))])
def test_a_drawing_of_another_size_than_its_box_is_refused(edges: Any) -> None:
    form = MaskInteraction(include_interaction=True, interaction_bbox=edges)
    with pytest.raises(InputError, match="a drawing of 3 x 3 x 3 voxels, but"):
        form.voxels(np.ones((3, 3, 3), bool), SHAPE)
