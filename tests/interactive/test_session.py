"""A session is a function of the image and the prompt log; what follows are the equations that this promises."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from example_prompts import PROMPTS, SHAPE, SQUARE, Labels, plain_only, varied
from random_models import ORIENTATIONS

from s2vnet.errors import InputError
from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.io.geometry import LabelMap, Region, Volume
from s2vnet.prompts import Box, Entry, Lasso, Lock, Mask, Point, Scribble


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


def changing_point(session: Session) -> Point:
    """A click that changes at least its own voxel."""
    voxel = (5, 9, 4)
    return Point(class_id=1 if session.labels[voxel] != 1 else 2, voxel=voxel)


def test_work_that_is_ended_changes_nothing(session: Session, labels_of: Callable[..., Labels]) -> None:
    session.add(PROMPTS["point"])
    before, history = session.labels.copy(), session.history

    def end(region: Region, block: Labels) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        session.apply(history.add(changing_point(session)), end)
    np.testing.assert_array_equal(session.labels, before)
    assert session.history is history
    session.apply(history.add(PROMPTS["scribble"]).add(PROMPTS["mask"]))
    np.testing.assert_array_equal(session.labels, labels_of(*session.log))
    session.undo()
    assert session.log == (PROMPTS["point"], PROMPTS["scribble"])
    np.testing.assert_array_equal(session.labels, labels_of(*session.log))


def test_work_on_locks_can_be_ended_and_tells_nothing(session: Session, labels_of: Callable[..., Labels]) -> None:
    others = (PROMPTS[name] for name in ("scribble", "lock", "point", "lock", "mask"))
    wanted = session.history.add(changing_point(session), *others)
    told, steps = [], 0

    def pause() -> None:
        nonlocal steps
        steps += 1
        if steps == 1:
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
    assert session.nbytes == session._applied.nbytes + bordered.data.nbytes < size
    np.testing.assert_array_equal(session.labels, before)
    assert session.next_slice_to_check() == wanted
    session.add(PROMPTS["mask"])
    np.testing.assert_array_equal(session.labels, labels_of(*session.log))


def memory_of(session: Session) -> int:
    """Bytes of all arrays and tensors that a session leads to, each place in memory once; not those of networks."""
    places: dict[int, int] = {}
    networks = (session.segmenter, session.segmenter.corrector, *session.segmenter.models)
    seen, left = set(map(id, networks)), [session]
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


def test_its_memory_stays_below_what_is_expected_of_opening_it(session: Session, bordered: Volume) -> None:
    expected = session.segmenter.session_nbytes(bordered.geometry)
    assert session.nbytes - session.labels.nbytes - bordered.data.nbytes <= expected


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
    with pytest.raises(InputError, match=r"cannot be loaded .*; open the scan again"):
        session.add(PROMPTS["point"])


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


def test_an_unlocked_class_changes_by_later_prompts_only(session: Session) -> None:
    session.lock(1)
    session.add(PROMPTS["point"], PROMPTS["mask"])
    assert "prompt 2 is for class 1, which is locked: it has no effect on that class" in session.notes
    before = session.labels.copy()
    session.lock(1, False)
    np.testing.assert_array_equal(session.labels, before)
    assert session.notes == []
    mask = PROMPTS["mask"]
    assert isinstance(mask, Mask)
    session.add(mask)
    assert (session.labels[tuple(mask.voxels().T)] == mask.class_id).all()


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
