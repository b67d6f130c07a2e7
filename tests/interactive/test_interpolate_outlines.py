"""Shapes between two outlines."""

from __future__ import annotations

import numpy as np
import pytest

from s2vnet.interactive.interpolate_outlines import between_outlines

SHAPE = (12, 14, 16)


def square(axis: int, position: int, low: int, high: int) -> np.ndarray[tuple[int, ...], np.dtype[np.intp]]:
    mask = np.zeros(SHAPE, bool)
    ends = [slice(low, high)] * 3
    ends[axis] = slice(position, position + 1)
    mask[tuple(ends)] = True
    return np.argwhere(mask)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("positions", [(2, 9), (9, 2)])
def test_between_two_equal_squares_there_is_the_square(axis: int, positions: tuple[int, int]) -> None:
    first, second = (square(axis, p, 0, 8) for p in positions)
    expected = np.concatenate([square(axis, p, 0, 8) for p in range(3, 9)])
    np.testing.assert_array_equal(
        between_outlines(first, second, SHAPE), np.sort(np.ravel_multi_index(tuple(expected.T), SHAPE))
    )


def test_between_a_small_and_a_large_square_sizes_rise() -> None:
    flat = between_outlines(square(0, 1, 4, 8), square(0, 10, 0, 12), SHAPE)
    counts = np.bincount(np.unravel_index(flat, SHAPE)[0], minlength=12)
    assert counts[[0, 1, 10, 11]].tolist() == [0, 0, 0, 0]
    assert (np.diff(counts[2:10]) >= 0).all()
    assert 16 <= counts[2] < counts[9] <= 144


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (square(0, 4, 1, 5), square(0, 4, 2, 6)),
        (square(0, 4, 1, 5), square(0, 5, 1, 5)),
        (square(0, 4, 1, 5), square(1, 8, 1, 5)),
    ],
)
def test_on_one_slice_or_neighbours_or_across_other_axes_there_is_nothing_between(
    first: np.ndarray[tuple[int, ...], np.dtype[np.intp]], second: np.ndarray[tuple[int, ...], np.dtype[np.intp]]
) -> None:
    assert not len(between_outlines(first, second, SHAPE))
