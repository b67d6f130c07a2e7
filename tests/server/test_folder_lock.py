"""Locks on folders exclude others until they are released."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from s2vnet.server import folder_lock
from s2vnet.server.folder_lock import FolderLock, is_locked, lock_folder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no flock")


def test_only_the_first_server_is_exclusive_until_it_shares(tmp_path: Path) -> None:
    first = FolderLock(tmp_path)
    assert first.exclusive
    first.share()
    second = FolderLock(tmp_path)
    assert not first.exclusive
    assert not second.exclusive
    first.close()
    second.close()
    third = FolderLock(tmp_path)
    assert third.exclusive
    third.close()


def test_a_folder_is_locked_until_its_descriptor_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "_ATTEMPTS", 2)
    assert not is_locked(tmp_path)
    descriptor = lock_folder(tmp_path)
    assert descriptor is not None
    assert is_locked(tmp_path)
    assert lock_folder(tmp_path) is None
    os.close(descriptor)
    assert not is_locked(tmp_path)
