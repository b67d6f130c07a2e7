"""A session is a function of the image and the prompt log; what follows are the equations that this promises."""

from __future__ import annotations

import gc
import itertools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from random_models import ORIENTATIONS

from s2vnet.data.plan import Plan
from s2vnet.data.training_ranges import TrainingRanges
from s2vnet.errors import InputError
from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.prompt_log import read_log
from s2vnet.interactive.session import Session
from s2vnet.interactive.voxelize import prompt_cells, prompt_voxels
from s2vnet.io.geometry import Geometry, LabelMap, Region, Volume
from s2vnet.prompts import Box, Entry, Lasso, Lock, Mask, Point, Scribble

Labels = npt.NDArray[np.uint8]
SHAPE = (18, 20, 13)
SQUARE = ((4, 5, 6), (4, 9, 6), (8, 9, 6), (8, 5, 6))


def mask_of(*corners: tuple[int, int]) -> npt.NDArray[np.bool_]:
    mask = np.zeros(SHAPE, bool)
    mask[tuple(slice(a, b) for a, b in corners)] = True
    return mask


PROMPTS: dict[str, Entry] = {
    "point": Point(class_id=2, voxel=(5, 9, 4)),
    "not": Point(class_id=0, voxel=(6, 7, 8), positive=False),
    "scribble": Scribble(class_id=1, voxels=((12, 9, 5), (12, 10, 5), (13, 10, 5))),
    "lasso": Lasso(class_id=2, axis=2, vertices=SQUARE),
    "mask": Mask.from_array(mask_of((9, 12), (6, 9), (7, 10)), 1),
    "not mask": Mask.from_array(mask_of((3, 14), (3, 14), (4, 6)), 0, False),
    "box": Box(class_id=1, start=(3, 4, 3), stop=(11, 12, 9)),
    "lock": Lock(class_id=2),
}


VARIANTS = ("each slice", "slices joined", "small parts left out", "tried both ways")
plain_only = pytest.mark.parametrize("segmenter", VARIANTS[:1], indirect=True)
"""For what does not depend on the model."""


def varied(name: str, values: Iterable[Any], *, indirect: bool = False) -> pytest.MarkDecorator:
    """Every value with the model as it is, the last one with its variants too."""
    values = list(values)
    cases = [(VARIANTS[0], value) for value in values] + [(variant, values[-1]) for variant in VARIANTS[1:]]
    return pytest.mark.parametrize(("segmenter", name), cases, indirect=["segmenter", *[name] * indirect])


@pytest.fixture(scope="module", params=VARIANTS)
def segmenter(request: pytest.FixtureRequest, model_folder: Path) -> Segmenter:
    """The random model, as it is, as if it had seen slices of 5 mm only, two of the image's, and less small parts."""
    found = Segmenter.from_pretrained(model_folder, device="cpu")
    if request.param == "slices joined":
        size = (1.0, 1.0, 5.0)
        found.plan = found.plan.model_copy(
            update={"seen": TrainingRanges(spacing=(size, size), size=(size, size), tissue=((0.0, 1.0),))}
        )
    if request.param == "small parts left out":
        found.plan = found.plan.model_copy(update={"smallest_part": 0.3})
    if request.param == "tried both ways":
        found.plan = found.plan.model_copy(update={"mirrored": "A"})
    return found


@pytest.fixture(scope="module")
def start(segmenter: Segmenter) -> Callable[[Volume], Session]:
    return lambda volume: Session(segmenter, volume)


@pytest.fixture
def session(start: Callable[[Volume], Session], bordered: Volume) -> Session:
    """Nothing prompted yet."""
    return start(bordered)


@pytest.fixture
def labels_of(start: Callable[[Volume], Session], bordered: Volume) -> Callable[..., Labels]:
    """``labels_of(*entries)``: labels of a new session that took them in one round."""

    def build(*entries: Entry) -> Labels:
        fresh = start(bordered)
        fresh.add(*entries)
        return fresh.labels

    return build


def test_without_prompts_it_is_the_automatic_result(session: Session, segmenter: Segmenter, bordered: Volume) -> None:
    expected = segmenter.segment(bordered).labels()
    np.testing.assert_array_equal(session.labels, expected.data)
    assert session.result.geometry is bordered.geometry
    assert session.log == ()
    assert session.notes == []
    assert session.changed_region is None


@varied("name", ["point", "not", "scribble", "lasso", "not mask", "lock", "box", "mask"])
def test_undo_is_never_clicked_and_redo_is_clicked(session: Session, name: str) -> None:
    session.add(PROMPTS["scribble"])
    before, log = session.labels.copy(), session.log
    session.add(PROMPTS[name])
    after = session.labels.copy()
    may_change_nothing = ("lock", "not", "scribble", "not mask")
    assert name in may_change_nothing or not np.array_equal(before, after)
    assert session.undo()
    np.testing.assert_array_equal(session.labels, before)
    assert session.log == log
    assert session.redo()
    np.testing.assert_array_equal(session.labels, after)


def test_undo_and_redo_end(session: Session) -> None:
    assert not session.undo()
    assert not session.redo()
    session.add(PROMPTS["point"])
    assert session.undo()
    assert not session.undo()
    session.add(PROMPTS["mask"])
    assert not session.redo()


@varied("index", [len(PROMPTS) - 1, 3, 0])
def test_a_removed_entry_was_never_there(session: Session, labels_of: Callable[..., Labels], index: int) -> None:
    entries = list(PROMPTS.values())
    session.add(*entries)
    session.remove(index)
    assert session.log == (*entries[:index], *entries[index + 1 :])
    np.testing.assert_array_equal(session.labels, labels_of(*session.log))
    session.undo()
    assert session.log == tuple(entries)


@plain_only
@pytest.mark.parametrize("index", [-1, 1])
def test_what_is_not_in_the_log_cannot_be_removed(session: Session, index: int) -> None:
    session.add(PROMPTS["point"])
    with pytest.raises(InputError, match=f"no prompt number {index}; the log has 1"):
        session.remove(index)


def test_rounds_and_detours_to_one_log_give_one_result(session: Session, labels_of: Callable[..., Labels]) -> None:
    first, second, third = PROMPTS["point"], PROMPTS["mask"], PROMPTS["scribble"]
    expected = labels_of(first, second, third)
    for entry in (first, third, PROMPTS["box"]):
        session.add(entry)
    session.undo()
    session.remove(1)
    session.add(second, third)
    assert session.log == (first, second, third)
    np.testing.assert_array_equal(session.labels, expected)


def test_slices_are_told_of_as_they_are_done(session: Session) -> None:
    session.add(PROMPTS["point"])
    shown, regions = session.labels.copy(), []

    def watch(region: Region, block: Labels) -> None:
        regions.append(region)
        shown[region] = block

    session.apply(session.history.add(PROMPTS["scribble"], PROMPTS["lasso"]), watch)
    assert len(regions) > 1
    assert regions[0][2].start <= SQUARE[0][2] < regions[0][2].stop
    for entry in (PROMPTS["scribble"], PROMPTS["lasso"]):
        assert not isinstance(entry, Lock)
        assert (shown[tuple(prompt_voxels(entry).T)] == entry.class_id).all()
    if session.segmenter.plan.seen is None and not session.segmenter.plan.smallest_part:
        np.testing.assert_array_equal(shown, session.labels)
    changed = np.zeros(SHAPE, bool)
    for region in regions:
        changed[region] = True
    assert changed[shown != session.labels].all()


def test_locked_classes_are_told_of_as_they_stay(session: Session) -> None:
    session.lock(2)
    locked = session.labels == 2

    def watch(region: Region, block: Labels) -> None:
        assert (block[locked[region]] == 2).all()

    session.apply(session.history.add(PROMPTS["scribble"]), watch)


def test_the_automatic_result_is_told_of(segmenter: Segmenter, bordered: Volume) -> None:
    shown = np.zeros(SHAPE, np.uint8)

    def watch(region: Region, block: Labels) -> None:
        shown[region] = block

    session = Session(segmenter, bordered, on_slice=watch)
    if segmenter.plan.seen is None and not segmenter.plan.smallest_part:
        np.testing.assert_array_equal(shown, session.labels)


def test_work_that_is_ended_changes_nothing(session: Session, labels_of: Callable[..., Labels]) -> None:
    session.add(PROMPTS["point"])
    before, history = session.labels.copy(), session.history

    def end(region: Region, block: Labels) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        session.apply(history.add(PROMPTS["scribble"]), end)
    np.testing.assert_array_equal(session.labels, before)
    assert session.history is history
    session.apply(history.add(PROMPTS["scribble"]).add(PROMPTS["mask"]))
    np.testing.assert_array_equal(session.labels, labels_of(*session.log))
    session.undo()
    assert session.log == (PROMPTS["point"], PROMPTS["scribble"])
    np.testing.assert_array_equal(session.labels, labels_of(*session.log))


def test_work_on_locks_can_be_ended_and_tells_nothing(session: Session, labels_of: Callable[..., Labels]) -> None:
    wanted = session.history.add(*(PROMPTS[name] for name in ("scribble", "lock", "point", "lock", "mask")))
    told, steps = [], 0

    def pause() -> None:
        nonlocal steps
        steps += 1
        if steps == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        session.apply(wanted, lambda region, block: told.append(region), pause)
    assert (told, session.log) == ([], ())
    session.apply(wanted, lambda region, block: told.append(region), pause)
    assert told
    np.testing.assert_array_equal(session.labels, labels_of(*wanted.log))


def test_put_away_it_answers_the_same(
    session: Session, bordered: Volume, labels_of: Callable[..., Labels], tmp_path: Path
) -> None:
    session.add(PROMPTS["point"])
    before, size, wanted = session.labels.copy(), session.nbytes, session.next_slice_to_check()
    session.offload(tmp_path / "cached.safetensors")
    session.offload(tmp_path / "nothing more to put away")
    assert session.nbytes == session.labels.nbytes + bordered.data.nbytes < size
    np.testing.assert_array_equal(session.labels, before)
    assert session.next_slice_to_check() == wanted
    session.add(PROMPTS["mask"])
    np.testing.assert_array_equal(session.labels, labels_of(*session.log))


def memory_of(session: Session) -> int:
    """Bytes of all arrays and tensors that a session leads to, each place in memory once; not those of its network."""
    places: dict[int, int] = {}
    seen, left = {id(session.segmenter), *map(id, session.segmenter.models)}, [session]
    while left:
        found: Any = left.pop()
        if id(found) in seen or isinstance(found, type | ModuleType | FunctionType):
            continue
        seen.add(id(found))
        if isinstance(found, torch.Tensor):
            places[found.untyped_storage().data_ptr()] = found.untyped_storage().nbytes()
        elif isinstance(found, np.ndarray) and found.base is None:
            places[found.ctypes.data] = found.nbytes
        else:
            left += [*gc.get_referents(found), getattr(found, "base", None)]
    return sum(places.values())


def test_its_memory_is_known_beforehand(session: Session, bordered: Volume) -> None:
    expected = session.segmenter.session_nbytes(bordered.geometry)
    labels = session.labels.nbytes + bordered.data.nbytes
    assert session.nbytes - labels <= expected + 1024
    assert expected <= 1.5 * (session.nbytes - labels)  # an image may be cropped


def test_its_memory_is_what_it_says(session: Session, tmp_path: Path) -> None:
    def told() -> None:
        assert session.nbytes == pytest.approx(memory_of(session), rel=1e-3, abs=1024)  # and an affine, say

    told()
    for entry in PROMPTS.values():
        session.add(entry)
        told()
    session.undo()
    session.add(Lock(class_id=1), PROMPTS["box"])
    told()
    session.offload(tmp_path / "cached.safetensors")
    told()
    session.volume = None
    told()
    session.undo()
    told()
    session.reset()
    told()


def test_what_was_put_away_and_lost_is_said(session: Session, tmp_path: Path) -> None:
    session.offload(tmp_path / "cached.safetensors")
    (tmp_path / "cached.safetensors").write_bytes(b"\0")
    with pytest.raises(InputError, match=r"is lost .*; open the scan again"):
        session.add(PROMPTS["point"])


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


def test_a_prompt_s_cells_are_there_once(session: Session) -> None:
    prompt = PROMPTS["mask"]
    assert isinstance(prompt, Mask)
    answers, stride = session._load_applier(), session.segmenter.plan.stem_stride
    cells = prompt_cells(session._grid, prompt)
    cells[:, 1:] = (cells[:, 1:] + 0.5) / stride - 0.5
    cells[:, 0] = np.rint(cells[:, 0])
    limits = (answers.encoded.depth, *answers.encoded.size)
    wanted = {tuple(cell) for cell in np.rint(cells).astype(int).tolist()}
    wanted = {cell for cell in wanted if all(0 <= n < most for n, most in zip(cell, limits, strict=True))}
    stroke = answers._stroke(prompt)
    assert stroke is not None
    assert stroke.cells.tolist() == [list(cell) for cell in sorted(wanted)]


def test_reset_can_be_undone(session: Session) -> None:
    automatic = session.labels.copy()
    session.add(PROMPTS["point"])
    session.add(PROMPTS["mask"])
    session.reset()
    assert session.log == ()
    np.testing.assert_array_equal(session.labels, automatic)
    session.undo()
    assert session.log == (PROMPTS["point"], PROMPTS["mask"])


def test_a_round_of_clicks(session: Session, labels_of: Callable[..., Labels]) -> None:
    clicks = [Point(class_id=k, voxel=(5 + k, 9, 4 + k)) for k in (0, 1, 2)]
    session.add_round(clicks)
    np.testing.assert_array_equal(session.labels, labels_of(*clicks))
    assert session.undo()
    assert session.log == ()


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
    assert not (labels_of(Box(class_id=1, start=(0, 0, 0), stop=(2, 20, 13))) == 1).any()


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


def test_what_is_taken_from_another_class_does_not_go_beyond_a_box(labels_of: Callable[..., Labels]) -> None:
    automatic = labels_of()
    everywhere = Mask.from_array(np.ones(SHAPE, bool), 0, positive=False)
    box = Box(class_id=2, start=(0, 0, 0), stop=(2, *SHAPE[1:]))
    assert (labels_of(everywhere)[2:] == 2).sum() > (automatic[2:] == 2).sum()
    assert not (labels_of(box, everywhere)[2:] == 2).any()


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


def test_prompts_that_agree_are_not_noted(session: Session) -> None:
    here = {"voxel": (5, 9, 4)}
    session.add(Point(class_id=1, **here), Point(class_id=1, **here), Point(class_id=2, positive=False, **here))
    session.add(PROMPTS["box"])
    assert session.notes == []
    session.add(Point(class_id=1, positive=False, **here))
    assert session.notes == ["prompt 4 overrules prompt 1 where they overlap"]


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
    assert np.array_equal(session.labels, before) == (len(locks) > 1)


def test_an_unlocked_class_changes_again(session: Session, labels_of: Callable[..., Labels]) -> None:
    prompts = [PROMPTS["point"], PROMPTS["mask"]]
    session.lock(1)
    session.add(*prompts)
    assert "prompt 2 is for class 1, which is locked: it has no effect on that class" in session.notes
    session.lock(1, False)
    np.testing.assert_array_equal(session.labels, labels_of(*prompts))
    assert session.notes == []


def test_a_prompt_on_a_locked_class_is_noted(session: Session) -> None:
    i, j, k = np.argwhere(session.labels == 1)[0].tolist()
    session.add(Point(class_id=1, voxel=(i, j, k)), Lock(class_id=1))
    assert session.notes == []
    session.add_point(2, (i, j, k))
    assert session.labels[i, j, k] == 1
    assert session.notes[0] == "prompt 2 lies on class 1, which is locked: it changes nothing there"


def test_locking_again_or_unlocking_what_is_free_changes_nothing(
    session: Session, labels_of: Callable[..., Labels]
) -> None:
    i, j, k = np.argwhere(session.labels == 1)[0].tolist()
    point = Point(class_id=2, voxel=(i, j, k))
    session.lock(1, False)
    session.lock(1)
    session.add(point)
    session.lock(1)
    session.add(PROMPTS["mask"])
    np.testing.assert_array_equal(session.labels, labels_of(Lock(class_id=1), point, PROMPTS["mask"]))
    assert session.notes == [
        "prompt 2 lies on class 1, which is locked: it changes nothing there",
        "prompt 4 is for class 1, which is locked: it has no effect on that class",
    ]


@varied("name", ["point", "not", "scribble", "lasso", "not mask", "lock", "box", "mask"])
def test_changed_region_is_the_bounding_box_of_what_changed(session: Session, name: str) -> None:
    before = session.labels.copy()
    session.add(PROMPTS[name])
    for operation in (lambda: True, session.undo, session.redo, lambda: session.remove(0)):
        operation()
        changed = np.argwhere(before != session.labels)
        region = session.changed_region
        if len(changed) == 0:
            assert region is None
        else:
            assert region is not None
            assert [s.start for s in region] == changed.min(0).tolist()
            assert [s.stop for s in region] == (changed.max(0) + 1).tolist()
        before = session.labels.copy()


@plain_only
@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (Point(class_id=1, voxel=(18, 0, 0)), "point prompt reaches outside the volume of 18 x 20 x 13"),
        (Point(class_id=1, voxel=(0, -1, 0)), "point prompt reaches outside"),
        (Point(class_id=1, voxel=(0, 10**30, 0)), "point prompt reaches outside"),
        (Scribble(class_id=1, voxels=((0, 0, 0), (0, 0, 13))), "scribble prompt reaches outside"),
        (Lasso(class_id=1, axis=0, vertices=((0, 0, 0), (0, 20, 0), (0, 9, 9))), "lasso prompt reaches outside"),
        (Box(class_id=1, start=(0, 0, 0), stop=(18, 20, 14)), "box prompt reaches outside"),
        (Box(class_id=1, start=(-1, 0, 0), stop=(18, 20, 13)), "box prompt reaches outside"),
        (Mask.from_array(np.ones((18, 20, 14), bool), 1), "mask prompt reaches outside"),
        (Mask(class_id=1, start=(0, 0, 0), stop=(4, 4, 4), bits="?"), "mask prompt is damaged"),
        (Point(class_id=3, voxel=(0, 0, 0)), "no class 3; classes of the model: 0 background, 1 left part, 2 right"),
        (Lock(class_id=9), "no class 9"),
    ],
)
def test_a_round_with_one_wrong_prompt_changes_nothing(session: Session, entry: Entry, message: str) -> None:
    session.add(PROMPTS["point"])
    session.add(PROMPTS["mask"])
    session.undo()
    log, labels, region = session.log, session.labels.copy(), session.changed_region
    with pytest.raises(InputError, match=message):
        session.add(PROMPTS["scribble"], entry)
    assert session.log == log
    assert session.changed_region == region
    np.testing.assert_array_equal(session.labels, labels)
    assert session.redo()
    assert session.undo()
    assert session.undo()
    assert not session.undo()


@plain_only
def test_prompts_that_are_none_are_refused_in_one_line(session: Session) -> None:
    wrong: list[tuple[Callable[[], Any], str]] = [
        (lambda: session.add_box(1, (3, 3, 3), (3, 9, 9)), "box prompt: .*must lie beyond start"),
        (lambda: session.add_lasso(1, 0, SQUARE), "lasso prompt: .*must share one index"),
        (lambda: session.add_scribble(1, []), "scribble prompt"),
        (lambda: session.add_point(-1, (0, 0, 0)), "point prompt"),
        (lambda: session.lock(-1), "lock prompt"),
        (lambda: session.add_mask(1, np.ones((2, 2, 2), bool)), r"mask \(2, 2, 2\) must have the image's shape"),
        (lambda: session.add_mask(1, np.zeros(SHAPE, bool)), "at least one voxel"),
    ]
    for call, message in wrong:
        with pytest.raises(InputError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
    assert session.log == ()


def test_prompts_encode_nothing(session: Session) -> None:
    calls = []
    model = session.segmenter.models[0]
    handle = model.encoder.register_forward_hook(lambda *_: calls.append(1))
    session.add(*PROMPTS.values())
    session.remove(0)
    session.undo()
    assert calls == []
    session.segmenter.segment(Volume(np.ones((1, *SHAPE), np.float32), session.geometry))
    tries = 2 if session.segmenter.plan.mirrored else 0
    assert len(calls) - tries in (1, 2)  # 13 slices, or 7 joined ones, eight at once
    handle.remove()


@varied("oriented", ORIENTATIONS, indirect=True)
def test_axes_of_the_file_change_nothing(
    start: Callable[[Volume], Session], oriented: tuple[Volume, Volume, str]
) -> None:
    one, other = (start(volume) for volume in oriented[:2])
    ways = [s.geometry.orientation for s in (one, other)]

    def carried(voxels: npt.ArrayLike) -> npt.NDArray[np.intp]:
        return np.rint(ways[1].invert_points(ways[0].apply_points(voxels))).astype(np.intp)

    for name, entry in PROMPTS.items():
        one.add(entry)
        other.add(_carried(entry, carried, other.geometry.shape))
        a, b = (way.apply(s.labels) for way, s in zip(ways, (one, other), strict=True))
        np.testing.assert_array_equal(a, b, name)


def _carried(entry: Entry, carried: Callable[..., npt.NDArray[np.intp]], shape: tuple[int, int, int]) -> Entry:
    """The same prompt in the voxels of another file."""
    if isinstance(entry, Lock):
        return entry
    changes: dict[str, Any]
    if isinstance(entry, Box):
        ends = carried([entry.start, np.array(entry.stop) - 1])
        changes = {"start": tuple(ends.min(0).tolist()), "stop": tuple((ends.max(0) + 1).tolist())}
    elif isinstance(entry, Lasso):
        vertices = carried(entry.vertices)
        axis = int(np.flatnonzero((vertices == vertices[0]).all(0))[0])
        changes = {"axis": axis, "vertices": tuple(map(tuple, vertices.tolist()))}
    elif isinstance(entry, Mask):
        mask = np.zeros(shape, bool)
        mask[tuple(carried(entry.voxels()).T)] = True
        return Mask.from_array(mask, entry.class_id, entry.positive)
    elif isinstance(entry, Point):
        changes = {"voxel": tuple(carried([entry.voxel])[0].tolist())}
    else:
        changes = {"voxels": tuple(map(tuple, carried(entry.voxels).tolist()))}
    return entry.model_copy(update=changes)


def test_a_log_replays_to_the_same_labels(
    session: Session, start: Callable[[Volume], Session], bordered: Volume, tmp_path: Path
) -> None:
    session.add(*PROMPTS.values())
    session.add(Lock(class_id=2, locked=False), Point(class_id=1, voxel=(5, 9, 4)))
    session.save_log(tmp_path / "log.json")
    content = json.loads((tmp_path / "log.json").read_text())
    assert content["classes"] == {"0": "background", "1": "left part", "2": "right"}
    assert content["notes"] == session.notes != []
    other = start(bordered)
    other.add(PROMPTS["box"])
    other.replay(tmp_path / "log.json")
    assert other.log == session.log
    np.testing.assert_array_equal(other.labels, session.labels)
    assert other.undo()
    assert other.log == (PROMPTS["box"],)


@plain_only
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": [18, 20, 14]}, "this image and the one of the log: grids differ"),
        ({"affine": np.diag([-1.0, 1, 1, 1]).tolist()}, "this image and the one of the log: grids differ"),
        ({"shape": 5}, "not a prompt log, or damaged"),
        ({"shape": None}, "not a prompt log, or damaged"),
        ({"model_sha256": "0" * 64}, "log of another model; use the model with sha256 000000000000$"),
        ({"model_sha256": 5}, "log of another model"),
        ({"format": 2}, "prompt log of format 2, but this version reads 1"),
        ({"format": None}, "prompt log of format None"),
        ({"entries": [{"kind": "circle"}]}, "not a prompt log, or damaged"),
        ({"entries": [{"kind": "point", "class_id": 1, "voxel": [99, 0, 0]}]}, "reaches outside"),
        (
            {"entries": [{"kind": "mask", "class_id": 1, "start": [0, 0, 0], "stop": [2, 2, 2], "bits": "eHh4eA=="}]},
            "mask prompt is damaged",
        ),
    ],
)
def test_a_log_that_does_not_fit_is_refused(
    session: Session, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    session.add(PROMPTS["point"])
    session.save_log(tmp_path / "log.json")
    content = json.loads((tmp_path / "log.json").read_text()) | change
    (tmp_path / "log.json").write_text(json.dumps(content))
    log, labels = session.log, session.labels.copy()
    with pytest.raises(InputError, match=message):
        session.replay(tmp_path / "log.json")
    assert session.log == log
    np.testing.assert_array_equal(session.labels, labels)


@pytest.mark.parametrize("text", [b"{", b"[]", b"{}", b"\xff\xfe\x00", b'{"format": 1}'])
def test_what_is_no_log(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "log.json").write_bytes(text)
    with pytest.raises(InputError, match="not a prompt log, or damaged"):
        read_log(tmp_path / "log.json")
    with pytest.raises(InputError, match="No such file"):
        read_log(tmp_path / "absent.json")


def test_a_box_names_the_voxels_inside() -> None:
    voxels = prompt_voxels(Box(class_id=1, start=(1, 2, 3), stop=(2, 4, 5)))
    assert voxels.tolist() == [[1, 2, 3], [1, 2, 4], [1, 3, 3], [1, 3, 4]]


def test_an_ensemble_is_refused(model_folder: Path, bordered: Volume) -> None:
    with pytest.raises(InputError, match="not an ensemble"):
        Session(Segmenter.from_pretrained(model_folder, model_folder, device="cpu"), bordered)


@pytest.mark.parametrize("shape", [(18, 20, 1), (1, 9, 5), (7, 1, 9)])
def test_a_volume_of_one_voxel_along_an_axis(
    start: Callable[[Volume], Session],
    make_phantom: Callable[..., tuple[Volume, LabelMap]],
    shape: tuple[int, int, int],
) -> None:
    session = start(make_phantom(shape)[0])
    session.add_point(1, (0, 0, 0))
    assert session.labels[0, 0, 0] == 1


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


def test_a_box_outside_of_the_crop_is_told_of_too(session: Session, labels_of: Callable[..., Labels]) -> None:
    beyond = Box(class_id=1, start=(0, 0, 0), stop=(1, 1, 1))
    told: list[Region] = []
    session.apply(session.history.add(PROMPTS["point"], beyond), lambda region, block: told.append(region))
    assert told
    np.testing.assert_array_equal(session.labels, labels_of(PROMPTS["point"], beyond))
