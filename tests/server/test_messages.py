"""Messages name no folder of the server, and their status is that of their cause."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from s2vnet.errors import InputError
from s2vnet.server.messages import is_disk_full, private_folders, without_folders
from s2vnet.server.session_record import SessionRecord
from s2vnet.server.settings import Settings
from s2vnet.utils.atomic_write import atomic_write

FOLDERS = (Path("/srv/state"), Path("/srv/data of patients"), Path("/"))


@pytest.mark.parametrize(
    ("message", "public"),
    [
        ("cannot write /srv/state/tmp/x/one.nii.gz: no space", "cannot write one.nii.gz: no space"),
        ("'/srv/data of patients/a/b.nii' is damaged (/srv/state)", "'b.nii' is damaged (state)"),
        ("add the axes, such as /nninteractive/liver/SPL", "add the axes, such as /nninteractive/liver/SPL"),
        ("Bearer TOKEN, or /?token=TOKEN", "Bearer TOKEN, or /?token=TOKEN"),
    ],
)
def test_folders_are_left_out_and_addresses_stay(message: str, public: str) -> None:
    assert without_folders(message, FOLDERS) == public


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_known_by_its_cause(number: int, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught, atomic_write(tmp_path / "file"):
        raise OSError(number, "full")
    assert is_disk_full(caught.value)
    assert caught.value.http_status == 507


def test_a_full_disk_is_reported_to_the_client_without_a_path(
    serve: Callable[..., TestClient], settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve()

    def fail(record: SessionRecord, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / "session.json"):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SessionRecord, "write", fail)
    answer = client.post("/api/sessions", json={"image": "one.nii.gz"})
    assert answer.status_code == 507
    assert answer.json()["detail"].startswith("cannot write session.json: No space left")
    assert not any(str(folder) in answer.text for folder in private_folders(settings()) if folder.is_absolute())
