"""Prompt logs are read back as written or refused, and entries that later ones overrule are noted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_prompts import PROMPTS, SHAPE, Labels, plain_only

from s2vnet.errors import InputError
from s2vnet.interactive.prompt_log import SavedLog, read_log, write_log
from s2vnet.interactive.session import Session
from s2vnet.io.geometry import Geometry
from s2vnet.prompts import Lock, Point


def test_prompts_that_agree_are_not_noted(session: Session) -> None:
    here = {"voxel": (5, 9, 4)}
    session.add(Point(class_id=1, **here), Point(class_id=1, **here), Point(class_id=2, positive=False, **here))
    session.add(PROMPTS["box"])
    assert session.notes == []
    session.add(Point(class_id=1, positive=False, **here))
    assert session.notes == ["prompt 4 overrules prompt 1 where they overlap"]


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
        ({"format": 3}, "prompt log of format 3, but this version reads 2"),
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


def test_a_written_log_is_read_back(tmp_path: Path) -> None:
    saved = SavedLog(tuple(PROMPTS.values()), "0" * 64, Geometry(SHAPE, np.diag([-1.0, 2, 3, 1])))
    write_log(tmp_path / "log.json", saved, {0: "background"}, [])
    found = read_log(tmp_path / "log.json")
    assert (found.entries, found.model_sha256, found.geometry.shape) == (saved.entries, saved.model_sha256, SHAPE)
    np.testing.assert_array_equal(found.geometry.affine, saved.geometry.affine)
    assert found.initial is None
