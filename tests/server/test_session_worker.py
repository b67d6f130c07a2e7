"""A session's worker: prompts while it opens, prompts that fail, and the scan that it reads again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from api_client import Screen, add_prompts, labels_of, live, open_session, ready
from fastapi.testclient import TestClient

from s2vnet.data.plan import IntensityScheme, Plan
from s2vnet.errors import InputError
from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.io.files import write_image
from s2vnet.io.geometry import Geometry, Volume
from s2vnet.prompts import Point
from s2vnet.server.model_library import ModelLibrary
from s2vnet.server.schemas import Add
from s2vnet.server.session_record import RECORD
from s2vnet.server.session_store import SessionStore
from s2vnet.server.settings import Settings

CLICK = Point(class_id=2, voxel=(5, 9, 4))
OTHER = Point(class_id=1, voxel=(11, 9, 9))
LEFT_OUT = "some prompts lay outside of the scan and were left out"


def test_prompts_in_quick_succession_give_the_labels_of_single_ones(client: TestClient, local: Session) -> None:
    name = open_session(client)
    points = [Point(class_id=n % 3, voxel=(5 + n, 9, 3 + n % 7)) for n in range(8)]
    with live(client, name) as socket:
        screen = Screen(socket)
        for point in points:  # the first before the scan is open
            screen.send(op="add", entries=[point.model_dump(mode="json")])
            local.add(point)
        screen.until(lambda s: ready(s) and s.state["shown"] == len(points))
        np.testing.assert_array_equal(screen.labels, local.labels)
        screen.send(op="undo")
        screen.until(lambda s: ready(s) and s.state["shown"] == len(points) + 1)
        local.undo()
        np.testing.assert_array_equal(screen.labels, local.labels)


def test_an_invalid_prompt_before_opening_is_left_out(client: TestClient, local: Session, tmp_path: Path) -> None:
    name = open_session(client)
    add_prompts(client, name, CLICK)
    add_prompts(client, name, Point(class_id=1, voxel=(99, 1, 1)))
    local.add(CLICK)
    refused = client.get(f"/api/sessions/{name}/labels")
    assert (refused.status_code, refused.json()["detail"]) == (422, LEFT_OUT)
    assert client.get(f"/api/sessions/{name}").json()["notes"][-1] == LEFT_OUT
    record = json.loads((tmp_path / "state" / "sessions" / name / RECORD).read_text())
    assert [entry["voxel"] for entry in record["entries"]] == [list(CLICK.voxel)]
    np.testing.assert_array_equal(labels_of(client, name, tmp_path), local.labels)
    assert LEFT_OUT not in add_prompts(client, name, OTHER)["notes"]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_prompt_that_cannot_be_computed_is_left_out(
    serve: Callable[..., TestClient], local: Session, tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve()
    name = open_session(client)
    add_prompts(client, name, CLICK)
    local.add(CLICK)
    before = labels_of(client, name, tmp_path)

    def short(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Session, "apply", short)
        add_prompts(client, name, OTHER)
        refused = client.get(f"/api/sessions/{name}/labels")
    assert (refused.status_code, "memory" in refused.json()["detail"]) == (422, True)
    assert "memory" in client.get(f"/api/sessions/{name}").json()["notes"][-1]
    for running in (client, serve()):
        np.testing.assert_array_equal(labels_of(running, name, tmp_path), before)
    np.testing.assert_array_equal(before, local.labels)


def test_undone_while_opening_can_be_redone(client: TestClient, local: Session, tmp_path: Path) -> None:
    name = open_session(client)
    add_prompts(client, name, CLICK)
    for op in ("undo", "redo"):
        client.post(f"/api/sessions/{name}/steps", json={"op": op})
    local.add(CLICK)
    np.testing.assert_array_equal(labels_of(client, name, tmp_path), local.labels)
    state = client.get(f"/api/sessions/{name}").json()
    assert (state["shown"], state["status"]) == (state["revision"], "ready")


@pytest.mark.parametrize("what", ["voxels", "grid"])
def test_prompts_are_not_replayed_on_another_scan_of_the_same_name(
    make: Callable[..., SessionStore], bordered: Volume, tmp_path: Path, what: str
) -> None:
    (tmp_path / "scans").mkdir()
    path = tmp_path / "scans" / "a.nii.gz"
    write_image(path, bordered)
    store = make(data=tmp_path / "scans")
    name = store.open("a.nii.gz").name
    store.get(name).apply(Add(entries=(CLICK,)))
    store.get(name).wait_ready(60)
    store.close()
    store.get(name).wait_ready(60)
    store.close()
    geometry = bordered.geometry
    if what == "grid":
        write_image(path, Volume(bordered.data, Geometry(geometry.shape, geometry.affine @ np.diag([1, 1, 1.01, 1]))))
    else:
        write_image(path, Volume(bordered.data[:, ::-1].copy(), geometry))
    with pytest.raises(InputError, match="the scan has changed; open it again"):
        store.get(name).wait_ready(60)
    store.close()
    record = tmp_path / "state" / "sessions" / name / RECORD
    older = json.loads(record.read_text())
    del older["image"]
    record.write_text(json.dumps(older))
    assert store.get(name).wait_ready(60).log == (CLICK,)


def test_a_scan_that_contradicts_the_models_modality_is_refused_unless_wanted(
    save: Callable[..., Path], make_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    window = IntensityScheme(kind="ct", low=-100, high=200, mean=50, std=50)
    plan = make_plan(intensities=(window,)).model_copy(update={"channels": ("CT",)})
    segmenter = Segmenter.from_pretrained(save(plan), device="cpu")
    voxels = np.random.default_rng(0).gamma(2, 100, (1, 12, 14, 6)).astype(np.float32)  # none below 0, as in an MR
    (tmp_path / "scans").mkdir()
    write_image(tmp_path / "scans" / "brain.nii.gz", Volume(voxels, Geometry((12, 14, 6), np.eye(4))))
    values = {"models": ("ct",), "data": tmp_path / "scans", "state": tmp_path / "state"}
    store = SessionStore(Settings.model_validate(values), ModelLibrary.of(segmenter))
    with pytest.raises(InputError, match=r"brain\.nii\.gz: no CT in HU, which the model is for") as caught:
        store.open("brain.nii.gz").wait_ready(60)
    assert str(tmp_path) not in str(caught.value)
    store.close()
    wanted = SessionStore(Settings.model_validate(values | {"any_modality": True}), ModelLibrary.of(segmenter))
    session = wanted.open("brain.nii.gz").wait_ready(60)
    assert any("no CT in HU" in text for text in session.training_differences)
    wanted.close()
