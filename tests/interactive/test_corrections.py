"""Labels under prompts keep prompted and locked voxels, and boxes bound their class."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from example_prompts import PROMPTS, SHAPE, SQUARE, Labels, mask_of, plain_only, varied
from hand_made_correctors import everything, nothing
from scipy import ndimage

from s2vnet.data.plan import Plan
from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.interactive.voxelize import prompt_voxels
from s2vnet.io.geometry import Geometry, Volume
from s2vnet.prompts import Box, Entry, Extent, Lock, Mask, Point, Scribble


@varied("class_id", [0, 1, 2])
def test_prompted_voxels_keep_their_class(session: Session, class_id: int) -> None:
    mask = mask_of((9, 12), (6, 9), (7, 10))
    session.add_point(class_id, (5, 9, 4))
    session.add_scribble(class_id, [(12, 9, 5), (13, 10, 5)])
    session.add_lasso(class_id, 2, SQUARE)
    session.add_mask(class_id, mask)
    assert session.labels[5, 9, 4] == class_id
    assert (session.labels[[12, 13], [9, 10], 5] == class_id).all()
    assert (session.labels[4:9, 5:10, 6] == class_id).all()
    assert (session.labels[mask] == class_id).all()


@varied("class_id", [0, 1, 2])
def test_negative_prompts_keep_their_class_away(session: Session, class_id: int) -> None:
    mask = session.labels == class_id
    mask[:, :9] = False
    assert mask.any()
    session.add_mask(class_id, mask, positive=False)
    assert not (session.labels[mask] == class_id).any()
    session.add_point(class_id, (5, 9, 4), positive=False)
    session.add_scribble(class_id, [(12, 9, 5)], positive=False)
    session.add_lasso(class_id, 0, [(4, 4, 4), (4, 9, 4), (4, 9, 9)], positive=False)
    for entry in session.log:
        assert not isinstance(entry, Lock)
        assert not (session.labels[tuple(prompt_voxels(entry).T)] == class_id).any()


@varied("classes", itertools.permutations(range(3), 2))
def test_negative_prompts_of_two_classes_leave_the_third(session: Session, classes: tuple[int, int]) -> None:
    mask = mask_of((0, 18), (3, 5), (0, 10))
    for class_id in classes:
        session.add_mask(class_id, mask, positive=False)
    assert (session.labels[mask] == 3 - sum(classes)).all()
    session.add_mask(3 - sum(classes), mask, positive=False)
    assert not (session.labels[mask] == 3 - sum(classes)).any()


def test_prompts_outside_the_crop(session: Session, labels_of: Callable[..., Labels]) -> None:
    corner = Point(class_id=1, voxel=(0, 0, 0))
    expected = session.labels.copy()
    session.add(corner)
    expected[0, 0, 0] = 1
    np.testing.assert_array_equal(session.labels, expected)
    assert session.changed_region == (slice(0, 1), slice(0, 1), slice(0, 1))
    around, whole = Box(class_id=1, start=(0, 0, 0), stop=SHAPE), Box(class_id=1, start=(2, 2, 2), stop=(16, 18, 11))
    np.testing.assert_array_equal(labels_of(around), labels_of(whole))
    assert not (labels_of(Box(class_id=1, start=(0, 0, 0), stop=(2, 20, 13)))[2:] == 1).any()


def test_a_box_holds_all_of_its_class_on_the_slices_that_it_spans(labels_of: Callable[..., Labels]) -> None:
    automatic = labels_of()
    where = np.argwhere(automatic == 2)
    (i, j, k), (i1, j1, k1) = where.min(0).tolist(), (where.max(0) + 1).tolist()
    box = Box(class_id=2, start=(i, j, k), stop=((i + i1) // 2, j1, k1))
    outside = tuple(where[where[:, 0] == i1 - 1][0].tolist())
    boxed = labels_of(box)
    assert (automatic[box.stop[0] :] == 2).any()
    assert not (boxed[box.stop[0] :, :, k:k1] == 2).any()
    assert (boxed == 2).any()
    for order in ((box, Point(class_id=2, voxel=outside)), (Point(class_id=2, voxel=outside), box)):
        assert labels_of(*order)[outside] == 2


def test_a_negative_box_is_the_mask_of_its_voxels(labels_of: Callable[..., Labels]) -> None:
    box = Box(class_id=2, start=(3, 4, 3), stop=(11, 12, 9), positive=False)
    inside = np.zeros(SHAPE, bool)
    inside[3:11, 4:12, 3:9] = True
    np.testing.assert_array_equal(labels_of(box), labels_of(Mask.from_array(inside, 2, positive=False)))
    assert not (labels_of(box)[inside] == 2).any()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Point(class_id=1, voxel=(5, 9, 4)), Point(class_id=2, voxel=(5, 9, 4))),
        (Point(class_id=1, voxel=(5, 9, 4)), Point(class_id=1, voxel=(5, 9, 4), positive=False)),
        (Point(class_id=1, voxel=(5, 9, 4), positive=False), Scribble(class_id=1, voxels=((4, 9, 4), (5, 9, 4)))),
    ],
)
def test_the_later_of_two_contradicting_prompts_wins(session: Session, first: Entry, second: Entry) -> None:
    for number, (one, two) in enumerate(((first, second), (second, first))):
        session.add(one, two)
        assert not isinstance(two, Lock)
        assert (session.labels[5, 9, 4] == two.class_id) == two.positive  # type: ignore[union-attr]
        assert session.notes == ["prompt 1 overrules prompt 0 where they overlap"], number
        session.undo()


@varied("locks", [(0,), (1,), (2,), (0, 1), (0, 2), (0, 1, 2), (2, 1)])
def test_locked_classes_stay_exactly(session: Session, locks: tuple[int, ...]) -> None:
    session.add(PROMPTS["point"])
    before = session.labels.copy()
    for class_id in locks:
        session.lock(class_id)
    np.testing.assert_array_equal(session.labels, before)
    session.add(*(entry for name, entry in PROMPTS.items() if name != "lock"))
    for class_id in locks:
        np.testing.assert_array_equal(session.labels == class_id, before == class_id)
    if len(locks) > 1:
        np.testing.assert_array_equal(session.labels, before)


@pytest.mark.parametrize("stride", [2, 4])
def test_coarse_masks_take_every_prompt(
    make_plan: Callable[..., Plan], save: Callable[..., Path], bordered: Volume, stride: int
) -> None:
    folder = save(make_plan(stem_stride=stride, crop_to_nonzero=False))
    session = Session(Segmenter.from_pretrained(folder, device="cpu"), bordered)
    session.add(*(entry for name, entry in PROMPTS.items() if name != "lock"))
    assert session.labels[5, 9, 4] == 2
    session.add(Box(class_id=2, start=(5, 9, 4), stop=(6, 10, 6)))
    assert isinstance(session.geometry, Geometry)


@plain_only
def test_a_click_changes_what_is_connected_to_it_and_nothing_else(session: Session) -> None:
    session.segmenter.__dict__["corrector"] = everything
    session._load_corrections().corrector = everything
    before = session.labels.copy()
    i, j, k = np.argwhere(before == 2)[0].tolist()
    session.add_point(1, (i, j, k))
    changed = before != session.labels
    assert changed[i, j, k]
    assert (session.labels[changed] == 1).all()
    components, _ = ndimage.label(changed)
    assert components.max() == 1
    region = session.changed_region
    session.add_point(1, (i, j, k))
    assert session.changed_region is None is not region
    assert session.last_changes == {}
    del session.segmenter.__dict__["corrector"]


@plain_only
def test_changes_are_told_in_ml(session: Session) -> None:
    before = session.labels.copy()
    session.add(PROMPTS["mask"])
    voxel = session.geometry.voxel_volume_ml
    for class_id, (gained, lost) in session.last_changes.items():
        assert gained == pytest.approx(((session.labels == class_id) & (before != class_id)).sum() * voxel)
        assert lost == pytest.approx(((session.labels != class_id) & (before == class_id)).sum() * voxel)
    assert 1 in session.last_changes


@plain_only
def test_an_earlier_prompt_s_voxels_are_kept(session: Session) -> None:
    mask = mask_of((4, 12), (5, 12), (5, 8))
    session.add_mask(2, mask)
    session._load_corrections().corrector = everything
    session.add_point(1, (5, 6, 9))
    assert (session.labels[mask] == 2).all()
    session.add_point(1, (5, 6, 6))
    assert session.labels[5, 6, 6] == 1


@varied("class_id", [1, 2])
def test_an_extent_is_all_of_a_class_until_prompts_change_it(session: Session, class_id: int) -> None:
    given = np.random.default_rng(0).random(SHAPE) < 0.3
    other = 3 - class_id
    session.add_point(class_id, (5, 9, 4))
    session.add(Extent.from_array(given, class_id))
    np.testing.assert_array_equal(session.labels == class_id, given)
    assert session.undo()
    session.redo()
    np.testing.assert_array_equal(session.labels == class_id, given)
    voxel = tuple(np.argwhere(given)[9].tolist())
    session.add_point(other, voxel)  # an extent's voxels are not prompted ones
    assert session.labels[voxel] == other
    session.reset()
    kept = session.labels == other
    session.lock(other)
    session.add(Extent.from_array(given, class_id))
    np.testing.assert_array_equal(session.labels == other, kept)
    np.testing.assert_array_equal((session.labels == class_id)[~kept], given[~kept])


@plain_only
def test_outlines_of_a_class_fill_the_slices_between(session: Session) -> None:
    session._load_corrections().corrector = nothing
    for position in (3, 9):
        session.add_mask(2, mask_of((5, 12), (5, 12), (position, position + 1)))
    assert (session.labels[5:12, 5:12, 3:10] == 2).all()
    for position in (3, 9):
        session.add_mask(2, mask_of((7, 10), (7, 10), (position, position + 1)), positive=False)
    assert not (session.labels[7:10, 7:10, [3, 9]] == 2).any()


@plain_only
def test_where_all_other_classes_are_locked_nothing_is_given_away(session: Session) -> None:
    before = session.labels.copy()
    session.add(Lock(class_id=0), Lock(class_id=2))
    session.add_mask(1, before == 1, positive=False)
    np.testing.assert_array_equal(session.labels, before)
