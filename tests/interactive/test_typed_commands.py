"""Commands as text, and logs as tables."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from s2vnet.errors import InputError
from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.interactive.typed_commands import class_by_name, describe, run_command, write_table
from s2vnet.io.files import write_labels
from s2vnet.io.geometry import Geometry, LabelMap, Volume
from s2vnet.prompts import Box, Lasso, Lock, Mask, Point, Scribble

NAMES = {0: "background", 1: "left part", 2: "right"}


@pytest.fixture(scope="module")
def segmenter(model_folder: Path) -> Segmenter:
    """The default random model only, not its variants."""
    return Segmenter.from_pretrained(model_folder, device="cpu")


@pytest.fixture
def session(segmenter: Segmenter, bordered: Volume) -> Session:
    return Session(segmenter, bordered)


def test_classes_by_value_and_name() -> None:
    assert [class_by_name(NAMES, text) for text in ("1", "Left Part", "RIGHT", "0")] == [1, 1, 2, 0]
    with pytest.raises(InputError, match="no class 'liver'; classes of the model: 0 background, 1 left part, 2 right"):
        class_by_name(NAMES, "liver")


def test_every_command_is_the_method_of_its_name(session: Session, segmenter: Segmenter, bordered: Volume) -> None:
    lines = ["point left part 5 9 4", "not 0 6 7 8", "box right 3 4 3 11 12 9", "lock Left part", "unlock left part"]
    for line in [*lines, "lock 2"]:
        answer = run_command(session, line)
        assert answer is not None
        assert answer == "nothing changed" or (line in lines[:3] and answer.startswith("changed "))
    other = Session(segmenter, bordered)
    other.add_point(1, (5, 9, 4))
    other.add_point(0, (6, 7, 8), positive=False)
    other.add_box(2, (3, 4, 3), (11, 12, 9))
    other.lock(1)
    other.lock(1, False)
    other.lock(2)
    assert session.log == other.log
    np.testing.assert_array_equal(session.labels, other.labels)
    assert run_command(session, "list") == "\n".join(
        [
            "0 point: class 1 at 5 9 4",
            "1 point: not class 0 at 6 7 8",
            "2 box: class 2 at 3 4 3 to 11 12 9",
            "3 lock class 1",
            "4 unlock class 1",
            "5 lock class 2",
        ]
    )


def test_strokes_and_masks_are_typed_or_read(session: Session, bordered: Volume, tmp_path: Path) -> None:
    drawn = np.zeros(bordered.geometry.shape, np.uint8)
    drawn[5:8, 6:9, 5] = 3
    write_labels(tmp_path / "drawn, by me.nii.gz", LabelMap(drawn, bordered.geometry))
    lines = [
        "scribble left part 5 9 4 5 10 4 6 10 4",
        "lasso right 3 4 6 9 4 6 9 11 6",
        f"mask 1 '{tmp_path}/drawn, by me.nii.gz'",
    ]
    for line in lines:
        assert run_command(session, line) is not None
    scribble, lasso, mask = session.log
    assert scribble == Scribble(class_id=1, voxels=((5, 9, 4), (5, 10, 4), (6, 10, 4)))
    assert lasso == Lasso(class_id=2, axis=2, vertices=((3, 4, 6), (9, 4, 6), (9, 11, 6)))
    assert isinstance(mask, Mask)
    np.testing.assert_array_equal(mask.voxels(), np.argwhere(drawn))


def test_a_mask_on_another_grid_is_refused(session: Session, bordered: Volume, tmp_path: Path) -> None:
    flipped = bordered.geometry.affine * np.array([-1, 1, 1, 1])
    labels = LabelMap(np.ones(bordered.geometry.shape, np.uint8), Geometry(bordered.geometry.shape, flipped))
    write_labels(tmp_path / "flipped.nii.gz", labels)
    with pytest.raises(InputError, match="image and mask"):
        run_command(session, f"mask 1 {tmp_path}/flipped.nii.gz")


def test_going_back(session: Session) -> None:
    assert run_command(session, "undo") == "nothing to undo"
    assert run_command(session, "redo") == "nothing to redo"
    assert run_command(session, "list") == "no prompts"
    added = run_command(session, "point 1 5 9 4")
    assert run_command(session, "undo") == added
    assert run_command(session, "redo") == added
    assert run_command(session, "remove 0") == added
    assert session.log == ()


def test_the_answer_names_the_changed_block(session: Session) -> None:
    before = session.labels.copy()
    i, j, k = np.argwhere(before == 2)[0].tolist()
    answer = run_command(session, f"point 1 {i} {j} {k}")
    changed = np.argwhere(before != session.labels)
    ends = zip(changed.min(0), changed.max(0) + 1, strict=True)
    assert answer == "changed " + " ".join(f"{a}:{b}" for a, b in ends)


@pytest.mark.parametrize("line", ["quit", "exit"])
def test_the_end(session: Session, line: str) -> None:
    assert run_command(session, line) is None
    assert run_command(session, "  ") == ""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("paint 1 2 3 4", "cannot read 'paint 1 2 3 4'; commands are point, not, scribble"),
        ("point 1 2 3", "cannot read"),
        ("box 1 1 2 3 4 5", "cannot read"),
        ("lock", "cannot read"),
        ("scribble 1 2 3", "cannot read"),
        ("scribble left part 2 3 4 5", "no class 'left part 2'"),
        ("scribble right 2 x 4", "'2 x 4': voxels are given as three whole numbers each"),
        ("mask 1 'nowhere.nii.gz", "No closing quotation"),
        ("lasso left part x y z", "three whole numbers"),
        ("lasso 1 1 2 3 2 3 4 5 6 7", "share one index"),
        ("mask 1", "cannot read"),
        ("mask 1 nowhere.nii.gz", "nowhere.nii.gz"),
        ("point liver 1 2 3", "no class 'liver'"),
        ("lock liver", "no class 'liver'"),
        ("point 1 1 2 x", "'1 2 x': 3 whole numbers are needed"),
        ("point 1 1 2 --3", "whole numbers"),
        ("point 1 1 2 \N{SUPERSCRIPT TWO}", "whole numbers"),
        ("point 1 1 2 99", "outside the volume"),
        ("point 1 1 2 -3", "outside the volume"),
        ("point 1 1 2 99999999999999999999", "outside the volume"),
        ("box 1 3 3 3 3 4 4", "box prompt: .*must lie beyond start"),
        ("remove", "1 whole numbers"),
        ("remove 0", "no prompt number 0"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(session: Session, line: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run_command(session, line)
    assert session.log == ()


def test_tables_have_a_row_per_entry(session: Session, tmp_path: Path) -> None:
    mask = np.zeros(session.geometry.shape, bool)
    mask[3:5, 4:6, 5:8] = True
    entries = [
        Point(class_id=1, voxel=(5, 9, 4)),
        Scribble(class_id=2, voxels=((1, 2, 3), (1, 3, 3)), positive=False),
        Lasso(class_id=1, axis=2, vertices=((4, 5, 6), (4, 9, 6), (8, 9, 6))),
        Box(class_id=1, start=(3, 4, 3), stop=(11, 12, 9)),
        Mask.from_array(mask, 0),
        Lock(class_id=2),
        Lock(class_id=2, locked=False),
    ]
    session.add(*entries)
    session.save_log(tmp_path / "log.json")
    rows = [
        ["number", "kind", "class", "positive", "place (i j k)"],
        ["0", "point", "1", "true", "5 9 4"],
        ["1", "scribble", "2", "false", "2 voxels from 1 2 3"],
        ["2", "lasso", "1", "true", "3 voxels from 4 5 6"],
        ["3", "box", "1", "true", "3 4 3 to 11 12 9"],
        ["4", "mask", "0", "true", "3 4 5 to 5 6 8"],
        ["5", "lock", "2", "true", ""],
        ["6", "lock", "2", "false", ""],
    ]
    write_table(tmp_path / "log.json", tmp_path / "log.csv")
    with (tmp_path / "log.csv").open(newline="") as stream:
        assert list(csv.reader(stream)) == rows
    write_table(tmp_path / "log.json", tmp_path / "log.md")
    lines = (tmp_path / "log.md").read_text().splitlines()
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in (lines[0], *lines[2:])] == rows
    assert set(lines[1]) == set("| -")
    with pytest.raises(InputError, match=r"name a \.csv or \.md file"):
        write_table(tmp_path / "log.json", tmp_path / "log.txt")


def test_entries_in_words() -> None:
    assert describe(Scribble(class_id=2, voxels=((1, 2, 3),), positive=False)) == (
        "scribble: not class 2 at 1 voxels from 1 2 3"
    )
