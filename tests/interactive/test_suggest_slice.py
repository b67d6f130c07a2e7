"""The slice to check next is the most uncertain one away from prompts."""

from __future__ import annotations

import numpy as np
import pytest

from s2vnet.interactive.session import Session
from s2vnet.interactive.suggest_slice import PLACE_DISTANCE_MM, PLACE_DISTANCE_SHARE, newest_prompt_centre
from s2vnet.prompts import Box, Lock, Point


def test_the_next_slice_to_check_is_none_that_was_prompted(session: Session) -> None:
    seen = set()
    while (found := session.next_slice_to_check()) is not None:
        axis, index = found
        assert axis == 2
        assert index not in seen
        seen.add(index)
        session.add_point(0, (9, 9, index))
    assert len(seen) > 1


def test_the_next_slice_to_check_lies_beyond_a_box_whose_voxels_nobody_lists(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    unsure = session.next_slice_to_check()
    assert unsure is not None
    session.add(Box(class_id=2, start=(0, 0, unsure[1]), stop=(18, 20, unsure[1] + 1)))
    monkeypatch.setattr("s2vnet.interactive.voxelize.prompt_voxels", None)
    found = session.next_slice_to_check()
    assert found is None or found[1] != unsure[1]


def test_places_to_check_are_apart_from_each_other_and_from_prompts(session: Session) -> None:
    places = session.places_to_check()
    assert places
    session.add_point(1, places[0])
    later = session.places_to_check()
    affine = session.geometry.affine[:3, :3]
    extent = np.abs(affine @ session.geometry.shape).max()
    distance = min(PLACE_DISTANCE_MM, PLACE_DISTANCE_SHARE * extent)
    for chosen in (places, [places[0], *later]):
        for n, place in enumerate(chosen):
            for other in chosen[:n]:
                away = np.linalg.norm(affine @ (np.array(place) - other))
                assert away > 0.5 * distance  # of cells' centres; voxels of the file are smaller or larger
    assert session.places_to_check(count=1) == later[:1]


def test_the_newest_prompt_s_centre_is_that_of_its_bounding_box() -> None:
    box = Box(class_id=1, start=(3, 4, 3), stop=(12, 12, 8))
    assert newest_prompt_centre((Lock(class_id=1),)) is None
    assert newest_prompt_centre((Point(class_id=1, voxel=(0, 0, 0)), box, Lock(class_id=1))) == (7, 7, 5)
