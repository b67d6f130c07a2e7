"""What a log starts from and adds: initial labels, classes of one's own, and logs of an older format."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from example_prompts import PROMPTS, SHAPE, plain_only

from s2vnet.errors import InputError
from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.io.geometry import Geometry, LabelMap, Volume


@plain_only
def test_initial_labels_are_kept_without_prompts_and_belong_to_the_log(
    segmenter: Segmenter, session: Session, bordered: Volume, tmp_path: Path
) -> None:
    initial = np.zeros(SHAPE, np.uint8)
    initial[4:9, 5:12, 3:8] = 2
    started = Session(segmenter, bordered, initial=LabelMap(initial, bordered.geometry))
    np.testing.assert_array_equal(started.labels, initial)
    started.add(PROMPTS["scribble"])
    started.save_log(tmp_path / "log.json")
    session.add(PROMPTS["point"])
    session.replay(tmp_path / "log.json")
    np.testing.assert_array_equal(session.labels, started.labels)
    assert session.undo()
    np.testing.assert_array_equal(session.labels, initial)
    content = json.loads((tmp_path / "log.json").read_text())
    content["initial"]["labels"] = content["initial"]["labels"][:-8]
    (tmp_path / "log.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="damaged"):
        session.replay(tmp_path / "log.json")
    np.testing.assert_array_equal(session.labels, initial)


@plain_only
def test_initial_labels_that_do_not_fit_are_refused(segmenter: Segmenter, bordered: Volume) -> None:
    wrong = LabelMap(np.full(SHAPE, 7, np.uint8), bordered.geometry)
    with pytest.raises(InputError, match="initial labels have the value 7, which is no class of the model"):
        Session(segmenter, bordered, initial=wrong)
    other = LabelMap(np.zeros((3, 3, 3), np.uint8), Geometry((3, 3, 3), bordered.geometry.affine))
    with pytest.raises(InputError, match="image and initial labels"):
        Session(segmenter, bordered, initial=other)


@plain_only
def test_an_added_class_is_exclusive_with_the_others_and_saved_with_its_name(
    session: Session, start: Callable[[Volume], Session], bordered: Volume, tmp_path: Path
) -> None:
    lesion = session.add_class("lesion")
    assert (lesion, session.class_names[lesion]) == (3, "lesion")
    assert session.last_changes == {}
    mask = np.zeros(SHAPE, bool)
    mask[6:10, 6:10, 5] = True
    session.add_mask(lesion, mask)
    assert (session.labels[mask] == lesion).all()
    session.add_point(1, (7, 7, 5))
    assert session.labels[7, 7, 5] == 1
    session.add_mask(lesion, mask, positive=False)
    assert not (session.labels[mask] == lesion).any()
    session.save_log(tmp_path / "log.json")
    assert json.loads((tmp_path / "log.json").read_text())["classes"]["3"] == "lesion"
    other = start(bordered)
    other.replay(tmp_path / "log.json")
    assert other.class_names == session.class_names
    np.testing.assert_array_equal(other.labels, session.labels)
    with pytest.raises(InputError, match="there is a class 'Lesion' already"):
        session.add_class("Lesion")
    with pytest.raises(InputError, match="no class 3"):
        session.remove(0)  # prompts of the class would be left
    session.reset()
    assert lesion not in session.class_names


@plain_only
def test_a_log_of_format_1_opens_with_a_note(session: Session, tmp_path: Path) -> None:
    session.add(PROMPTS["point"])
    session.save_log(tmp_path / "log.json")
    content = json.loads((tmp_path / "log.json").read_text())
    (tmp_path / "log.json").write_text(json.dumps({**content, "format": 1}))
    session.replay(tmp_path / "log.json")
    assert sum("format 1" in note for note in session.notes) == 1
    session.reset()
    assert session.notes == []
