from __future__ import annotations

import numpy as np

from s2vnet.utils.components import components_at, largest_component


def test_the_largest_component_is_found_in_its_bounding_box() -> None:
    mask = np.zeros((6, 7, 8), bool)
    mask[0, 0, :2] = True
    mask[3:5, 3, 3] = mask[5, 4, 4] = True  # connected through a corner
    found = largest_component(mask)
    assert found is not None
    component, box = found
    assert box == (slice(3, 6), slice(3, 5), slice(3, 5))
    np.testing.assert_array_equal(component, mask[box])


def test_an_empty_mask_has_no_component() -> None:
    assert largest_component(np.zeros((2, 3, 4), bool)) is None


def test_components_at_voxels_are_whole_and_share_faces() -> None:
    mask = np.zeros((4, 6, 6), bool)
    mask[0:3, 1:3, 1:3] = True
    mask[3, 3, 3] = True  # shares a corner only
    mask[1, 5, 5] = True
    chosen = components_at(mask, np.array([[2, 1, 1], [0, 0, 0]]))
    assert int(chosen.sum()) == 12
    assert chosen[0, 2, 2]
    assert int(components_at(mask, np.array([[2, 1, 1], [1, 5, 5]])).sum()) == 13
    assert not components_at(mask, np.empty((0, 3), np.intp)).any()
