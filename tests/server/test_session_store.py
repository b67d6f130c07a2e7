"""Leases, limits, and what is kept on the disk."""

from __future__ import annotations

import io
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from disks import fill

from s2vnet.errors import CapacityError, InputError
from s2vnet.interactive.applied_log import AppliedLog
from s2vnet.prompts import NewClass, Point
from s2vnet.server.schemas import Add
from s2vnet.server.session_record import RECORD
from s2vnet.server.session_store import SessionStore
from s2vnet.server.session_worker import CACHE_FILE, SessionWorker
from s2vnet.server.settings import Settings

CLICK = Add(entries=(Point(class_id=2, voxel=(5, 9, 4)),))
MakeStore = Callable[..., SessionStore]


def test_an_expired_session_is_closed_and_restored(make: MakeStore) -> None:
    store = make(lease_s=60)
    worker = store.open("one.nii.gz")
    worker.apply(CLICK)
    labels = worker.wait_ready(60).labels.copy()
    store.maintain(lambda: time.monotonic() + 59)
    assert store.count == 1
    store.maintain(lambda: time.monotonic() + 61)
    assert (store.count, store.nbytes) == (0, 0)
    np.testing.assert_array_equal(store.get(worker.name).wait_ready(60).labels, labels)


def test_prompts_of_an_added_class_are_taken_one_after_another_and_restored(make: MakeStore) -> None:
    store = make()
    worker = store.open("one.nii.gz")
    first, second = (Point(class_id=3, voxel=voxel) for voxel in ((5, 9, 4), (11, 9, 9)))
    log = (NewClass(class_id=3, name="lesion"), first, second)
    for entry in log:
        worker.wait_ready(60)
        worker.apply(Add(entries=(entry,)))
    labels = worker.wait_ready(60).labels.copy()
    store.maintain(lambda: float("inf"))
    assert store.get(worker.name).wait_ready(60).log == log
    np.testing.assert_array_equal(store.get(worker.name).wait_ready(60).labels, labels)


def test_a_session_with_listeners_does_not_expire(make: MakeStore) -> None:
    store = make(lease_s=60)
    worker = store.open("one.nii.gz")
    worker.wait_ready(60)
    with worker.listen(lambda message: None):
        store.maintain(lambda: time.monotonic() + 1000)
        assert store.count == 1


def test_the_least_recently_used_session_is_offloaded(make: MakeStore, tmp_path: Path) -> None:
    store = make()
    names = [store.open("one.nii.gz").name for _ in range(3)]
    sessions = [store.get(name).wait_ready(60) for name in names]
    store.get(names[0])  # the first has been asked last
    one = sessions[0].nbytes
    store.memory.limit = int(2.5 * one)
    store.maintain()
    assert [session.nbytes > session.labels.nbytes for session in sessions] == [True, False, True]
    assert store.nbytes <= 2.5 * one
    assert all(session.volume is None for session in sessions)  # the images are in no server's memory
    assert (tmp_path / "state" / "sessions" / names[1] / CACHE_FILE).exists()
    worker = store.get(names[1])
    worker.apply(CLICK)
    sessions[0].add(*CLICK.entries)
    np.testing.assert_array_equal(worker.wait_ready(60).labels, sessions[0].labels)


def test_a_full_disk_does_not_stop_maintenance(make: MakeStore, caplog: pytest.LogCaptureFixture) -> None:
    store = make()
    full, other, closed = (store.open("one.nii.gz") for _ in range(3))
    sessions = [worker.wait_ready(60) for worker in (full, other, closed)]
    (full.folder / CACHE_FILE).mkdir()  # nothing can be written in its place
    closed.close()
    store.memory.limit = int(3 * other.nbytes) - 1000
    closed.offload()
    assert sessions[2].nbytes > sessions[2].labels.nbytes
    store.maintain()
    assert f"session {full.name[:8]} stays in memory" in caplog.text
    assert str(full.folder) not in caplog.text
    assert (other.folder / CACHE_FILE).is_file()


def test_a_full_disk_refuses_prompts_and_scans_and_loses_none(
    make: MakeStore, data: Path, disk: Callable[[int], Path]
) -> None:
    store = make(state=disk(1 << 20))
    worker = store.open("one.nii.gz")
    worker.apply(CLICK)
    labels, record = worker.wait_ready(60).labels.copy(), (worker.folder / RECORD).read_bytes()
    scan = (data / "one.nii.gz").read_bytes()
    filling = fill(store.settings.state)
    for write in (
        lambda: worker.apply(CLICK),
        lambda: store.open("one.nii.gz"),
        lambda: store.scans.receive("x.nii.gz", io.BytesIO(scan)),
    ):
        with pytest.raises(InputError, match="No space left on device") as caught:
            write()
        assert "\n" not in str(caught.value)
    assert (worker.folder / RECORD).read_bytes() == record
    assert [path.name for path in worker.folder.iterdir()] == [RECORD]
    assert list((store.settings.state / "sent").iterdir()) == []
    np.testing.assert_array_equal(worker.wait_ready(60).labels, labels)
    filling.unlink()
    assert worker.apply(CLICK).revision == 2


@pytest.mark.parametrize("years", [10, -10])
def test_a_changed_clock_expires_nothing(
    make: MakeStore, data: Path, monkeypatch: pytest.MonkeyPatch, years: int
) -> None:
    store, now, clock = make(keep_days=1, lease_s=60), time.time, time.monotonic
    silent, worker = store.open("one.nii.gz"), store.open("one.nii.gz")
    sent = store.scans.receive("x.nii.gz", io.BytesIO((data / "one.nii.gz").read_bytes()))
    for session in (silent, worker):
        session.wait_ready(60)
    silent.last_used -= 61
    monkeypatch.setattr(time, "time", lambda: now() + years * 365 * 86400)
    store.maintain()
    assert store.count == 1  # of whom nothing was heard for a lease, and nobody else
    later = store.open("one.nii.gz")
    later.wait_ready(60)
    for path in (later.folder, later.folder / RECORD):
        os.utime(path, (time.time(),) * 2)
    store.maintain(lambda: clock() + 61)
    store.maintain()
    assert store.count == 0
    assert store.scans.find(sent.id).is_file()
    for session in (silent, worker, later):
        assert store.get(session.name).wait_ready(60).log == ()
    monkeypatch.setattr(time, "time", now)
    store.maintain()
    assert store.count == 3


def test_sessions_are_closed_when_their_labels_exceed_the_limit(make: MakeStore) -> None:
    store = make()
    silent, heard = (store.open("one.nii.gz") for _ in range(2))
    heard.wait_ready(60)
    labels = 2 * silent.wait_ready(60).labels.nbytes  # as they are, and as they were told
    store.memory.limit = int(1.5 * labels)
    with heard.listen(lambda message: None):
        store.maintain()
        assert (store.count, store.nbytes) == (1, labels)
        store.memory.limit = 2**30
        assert store.get(silent.name).wait_ready(60).log == ()


def test_a_full_store_closes_expired_sessions_only(make: MakeStore) -> None:
    store = make(max_sessions=2, lease_s=1000)
    first, second = (store.open("one.nii.gz") for _ in range(2))
    for worker in (first, second):
        worker.wait_ready(60)
    with pytest.raises(CapacityError, match="all 2 sessions are taken"):
        store.open("one.nii.gz")
    first.last_used -= 1001
    third = store.open("one.nii.gz")
    assert store.count == 2
    second.last_used -= 1001
    assert store.get(first.name).wait_ready(60) is not None
    assert {first.name, third.name} == set(store._workers)


def test_a_failed_session_is_reopened_once(make: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(lease_s=60)
    first = store.open("one.nii.gz")
    first.apply(CLICK)
    first.wait_ready(60)

    def broken(*_: object) -> None:
        raise KeyError("a mistake in the code")

    def fail(worker: SessionWorker) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(AppliedLog, "follow", broken)
            worker.apply(Add(entries=(Point(class_id=1, voxel=(6, 9, 4)),)))
            with pytest.raises(InputError, match="the server failed"):
                worker.wait_ready(60)

    fail(first)
    second = store.get(first.name)
    assert len(second.wait_ready(60).log) == 2  # its record has what was asked for last
    fail(second)
    assert store.get(first.name) is second
    store.maintain(lambda: second.last_used + 61)
    assert store.count == 0
    assert store.get(first.name).wait_ready(60) is not None


def test_requests_do_not_keep_a_session_that_never_opened(make: MakeStore) -> None:
    store = make(lease_s=60)
    worker = store.open(store.scans.receive("x.nii.gz", io.BytesIO(b"no image")).id)
    with pytest.raises(InputError, match="not a readable NIfTI"):
        worker.wait_ready(60)
    worker.last_used = 7.0
    assert store.get(worker.name) is worker
    assert worker.last_used == 7


def test_a_session_of_another_model_is_refused(make: MakeStore, tmp_path: Path) -> None:
    store = make()
    name = store.open("one.nii.gz").name
    store.get(name).wait_ready(60)
    store.close()
    record = tmp_path / "state" / "sessions" / name / RECORD
    record.write_text(json.dumps(json.loads(record.read_text()) | {"model": "other", "model_sha256": "0" * 64}))
    with pytest.raises(InputError, match=r"session is of another model, other \(000000000000\), than model"):
        store.get(name)


@pytest.mark.parametrize("name", ["", "..", "../sent", "0" * 32, "x" * 32, "0" * 31 + "/"])
def test_unknown_names_are_refused(make: MakeStore, name: str) -> None:
    with pytest.raises(InputError, match="no such session"):
        make().get(name)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 9}'])
def test_a_damaged_record_is_refused(make: MakeStore, tmp_path: Path, text: str) -> None:
    store = make()
    name = store.open("one.nii.gz").name
    store.get(name).wait_ready(60)
    store.close()
    (tmp_path / "state" / "sessions" / name / RECORD).write_text(text)
    with pytest.raises(InputError, match="no such session"):
        store.get(name)


def test_a_removed_scan_is_reported(make: MakeStore, data: Path) -> None:
    store = make()
    scan = store.scans.receive("x.nii.gz", io.BytesIO((data / "one.nii.gz").read_bytes()))
    name = store.open(scan.id).name
    store.get(name).wait_ready(60)
    store.close()
    store.scans.find(scan.id).unlink()
    with pytest.raises(InputError, match="no such scan"):
        store.get(name)


def test_old_sessions_and_uploads_are_deleted(make: MakeStore, data: Path, tmp_path: Path) -> None:
    store = make(keep_days=1, lease_s=1)
    scan = store.scans.receive("x.nii.gz", io.BytesIO((data / "one.nii.gz").read_bytes()))
    old, new = (store.open(scan.id) for _ in range(2))
    for worker in (old, new):
        worker.wait_ready(60)
    store.maintain(lambda: time.monotonic() + 2)
    past = time.time() - 2 * 86400
    folders = tmp_path / "state" / "sessions"
    for path in (folders / old.name / RECORD, folders / old.name, store.scans.find(scan.id)):
        os.utime(path, (past, past))
    store.maintain()
    assert [path.name for path in folders.iterdir()] == [new.name]
    assert list((tmp_path / "state" / "sent").iterdir()) == []


def test_uploads_have_a_quota_and_the_oldest_unused_is_removed(make: MakeStore, data: Path) -> None:
    content = (data / "one.nii.gz").read_bytes()
    store = make(sent_mb=1)
    store.scans._max_upload_bytes = 3 * len(content)

    def send(times: int = 1) -> str:
        return store.scans.receive("x.nii.gz", io.BytesIO(content * times)).id

    scans = [send() for _ in range(3)]
    for age, scan in zip((30, 20, 10), scans, strict=True):
        os.utime(store.scans.find(scan), (time.time() - age,) * 2)
    worker = store.open(scans[0])  # used last
    worker.wait_ready(60)
    os.utime(worker.path, (0, 0))
    scans.append(send())
    with pytest.raises(InputError, match="no such scan"):
        store.scans.find(scans[1])
    with pytest.raises(CapacityError, match="no room for this scan in the 0 MB"):
        send(times=3)
    assert [store.scans.find(scans[n]).is_file() for n in (0, 2, 3)] == [True] * 3
    with store.scans.reserve_disk(2 * len(content)), pytest.raises(CapacityError):
        send()
    store.end(worker.name)
    send(times=3)
    assert len(list((store.settings.state / "sent").iterdir())) == 1


def test_leftovers_are_removed_when_no_other_server_runs(make: MakeStore, tmp_path: Path) -> None:
    state, name = tmp_path / "state", "0" * 32
    lasting = [f"sessions/{name}/{RECORD}", "sent/1.nii", "labels/final/1.nii.gz"]
    left = [f"sessions/{name}/{CACHE_FILE}", f"sessions/{name}/.s2vnet-x/{RECORD}", f"sessions/{'1' * 32}/.s2vnet-x/a"]
    left += ["sent/.s2vnet-y/1.nii", "tmp/s2vnet-z/labels.nii.gz", "labels/final/.s2vnet-q/1.nii.gz"]
    running = make()
    for path in (*lasting, *left):
        (state / path).parent.mkdir(parents=True, exist_ok=True)
        (state / path).write_text("")
    make().close()
    assert all((state / path).exists() for path in left)
    running.close()
    make().close()
    found = {path.relative_to(state).as_posix() for path in state.rglob("*") if path.is_file()}
    assert found == {*lasting, ".running"}
    assert [path.name for path in (state / "sessions").iterdir()] == [name]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_the_state_is_its_owners_alone(make: MakeStore, settings: Callable[..., Settings]) -> None:
    state = settings().state
    (state / "sent").mkdir(parents=True, mode=0o755)  # by an earlier version
    make()
    assert all(folder.stat().st_mode & 0o077 == 0 for folder in state.iterdir() if folder.is_dir())


def test_sessions_of_a_scan_are_listed_by_its_path(
    make: Callable[..., SessionStore], tmp_path: Path, data: Path
) -> None:
    store = make(list_sessions=True)
    worker = store.open("one.nii.gz")
    worker.wait_ready(60)
    worker.apply(Add(entries=(Point(class_id=1, voxel=(1, 1, 1)),)))
    worker.wait_ready(60)
    (summary,) = store.summaries(())
    assert (summary.session, summary.image.id, summary.prompts) == (worker.name, "one.nii.gz", 1)
    store.close()
    inside = make(list_sessions=True, data=data / "one.nii.gz")
    assert [session.prompts for session in inside.summaries(())] == [1]
    inside.close()
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(data / "one.nii.gz", tmp_path / "elsewhere")
    elsewhere = make(list_sessions=True, data=tmp_path / "elsewhere")
    assert elsewhere.summaries(()) == []
    with pytest.raises(InputError, match="no such scan here"):
        elsewhere.get(worker.name)
    elsewhere.close()


def test_a_server_of_many_users_describes_only_sessions_that_are_named(make: Callable[..., SessionStore]) -> None:
    store = make()
    name = store.open("one.nii.gz").name
    assert store.summaries(()) == []
    assert [session.session for session in store.summaries((name, "0" * 32, "../x"))] == [name]
    store.close()


def test_an_operation_sent_again_has_no_effect(make: Callable[..., SessionStore]) -> None:
    store = make()
    worker = store.open("one.nii.gz")
    add = Add(entries=(Point(class_id=1, voxel=(1, 1, 1)),), key="tab-0")
    assert [len(worker.apply(add).entries) for _ in range(2)] == [1, 1]
    store.close()
    store = make()
    state = store.get(worker.name).apply(add)
    assert (len(state.entries), state.taken) == (1, ("tab-0",))
    store.close()
