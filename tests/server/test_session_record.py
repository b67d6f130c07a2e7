"""A record read is the record written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from s2vnet.errors import InputError
from s2vnet.interactive.history import History
from s2vnet.io.geometry import Geometry, Volume
from s2vnet.prompts import Lock, Point
from s2vnet.server.schemas import Scan
from s2vnet.server.session_record import RECORD, SessionRecord, image_digest, read_summary

POINT, LOCK = Point(class_id=1, voxel=(1, 2, 3)), Lock(class_id=2)
HISTORY = History().add(POINT).add(LOCK).remove(0).undo()
SESSION = SessionRecord(
    Scan(id="a.nii.gz", name="a.nii.gz"),
    "abdomen-ct",
    "0" * 64,
    "digest",
    4,
    HISTORY,
    (),
    "/data/a.nii.gz",
    1.5,
    ("tab-1",),
)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    SESSION.write(tmp_path / "session")
    assert SessionRecord.read(tmp_path / "session") == SESSION


def test_an_entry_of_several_logs_is_stored_once(tmp_path: Path) -> None:
    SESSION.write(tmp_path)
    record = json.loads((tmp_path / RECORD).read_text())
    assert list(record) == [
        "format", "scan", "model", "model_sha256", "image", "revision", "warnings", "source",
        "changed", "taken", "styles", "entries", "log", "past", "undone",
    ]  # fmt: skip
    assert (len(record["entries"]), record["log"], record["past"], record["undone"]) == (2, [0, 1], [[], [0]], [[1]])


@pytest.mark.parametrize(
    "changes", [{"format": 2}, {"log": [9]}, {"entries": [{}]}, {"scan": None}, {"revision": "x"}, {"past": 1}]
)
def test_a_damaged_record_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    SESSION.write(tmp_path)
    record = json.loads((tmp_path / RECORD).read_text())
    (tmp_path / RECORD).write_text(json.dumps(record | changes))
    with pytest.raises(InputError, match="no such session; open the scan again"):
        SessionRecord.read(tmp_path)


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="the session cannot be saved"):
        SESSION.write(tmp_path / "file")


def test_digests_differ_by_voxels_and_grid() -> None:
    data = np.random.default_rng(0).normal(size=(1, 8, 8, 8)).astype(np.float32)
    images = [
        Volume(data, Geometry((8, 8, 8), np.eye(4))),
        Volume(-data, Geometry((8, 8, 8), np.eye(4))),
        Volume(data, Geometry((8, 8, 8), np.diag([1.0, 1.0, 2.0, 1.0]))),
    ]
    assert len({image_digest(image) for image in images}) == 3
    assert image_digest(images[0]) == image_digest(Volume(data.copy(), images[0].geometry))


def test_a_summary_is_that_of_the_record(tmp_path: Path) -> None:
    SESSION.write(tmp_path)
    summary, source, model = read_summary(tmp_path)
    assert (summary.image, summary.prompts, summary.changed) == (SESSION.scan, len(HISTORY.log), 1.5)
    assert (source, model) == (SESSION.source, SESSION.model_sha256)
    (tmp_path / RECORD).write_text("[]")
    with pytest.raises(InputError, match="no such session"):
        read_summary(tmp_path)
