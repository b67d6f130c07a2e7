"""Overruled prompts are those found voxel by voxel; a log that continues is compared from where it continues."""

from __future__ import annotations

import numpy as np
import pytest
from example_prompts import PROMPTS, SHAPE

from s2vnet.interactive.overruled_prompts import MAX_COMPARED_VOXELS, OverruledPrompts
from s2vnet.prompts import Entry, Mask, Point, Scribble


def scribbles(seed: int, count: int) -> list[Entry]:
    rng = np.random.default_rng(seed)
    return [
        Scribble(
            class_id=int(rng.integers(3)),
            positive=bool(rng.random() < 0.6),
            voxels=tuple((int(a), int(b), 0) for a, b in rng.integers(0, 4, (5, 2))),
        )
        for _ in range(count)
    ]


def voxel_by_voxel(log: list[Entry]) -> dict[int, list[int]]:
    """Each voxel's standing statements, by class and sign, with the prompt that made each last."""
    standing: dict[tuple[int, ...], dict[tuple[int, bool], int]] = {}
    found: dict[int, set[int]] = {}
    for number, entry in enumerate(log):
        assert isinstance(entry, Scribble)
        for voxel in entry.voxels:
            here = standing.setdefault(voxel, {})
            for (class_id, positive), other in list(here.items()):
                both = positive and entry.positive and class_id != entry.class_id
                if both or (class_id == entry.class_id and positive != entry.positive):
                    del here[class_id, positive]
                    found.setdefault(number, set()).add(other)
            here[entry.class_id, entry.positive] = number
    return {number: sorted(others) for number, others in found.items()}


@pytest.mark.parametrize("seed", range(5))
def test_prompts_are_compared_voxel_by_voxel(seed: int) -> None:
    log = scribbles(seed, 30)
    expected = voxel_by_voxel(log)
    assert expected
    assert OverruledPrompts(SHAPE).follow(tuple(log)).overruled == expected
    grown = OverruledPrompts(SHAPE)
    for count in range(len(log) + 1):
        continued = grown.follow(tuple(log[:count]))
        assert continued is grown
    assert grown.overruled == expected
    assert grown.nbytes > 0


def test_another_log_is_compared_anew() -> None:
    log = tuple(scribbles(0, 20))
    known = OverruledPrompts(SHAPE).follow(log)
    for other in (log[:10], (*log[:5], *log[6:]), ()):
        found = known.follow(other)
        assert found is not known
        assert found.overruled == voxel_by_voxel(list(other))


def test_boxes_locks_and_very_large_prompts_are_left_out() -> None:
    whole = Mask.from_array(np.ones((50, 50, 41), bool), 1)
    assert MAX_COMPARED_VOXELS < 50 * 50 * 41
    point = Point(class_id=2, voxel=(5, 9, 4))
    log = (whole, PROMPTS["box"], PROMPTS["lock"], point, point.model_copy(update={"positive": False}))
    assert OverruledPrompts((50, 50, 41)).follow(log).overruled == {4: [3]}
