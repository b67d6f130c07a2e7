"""Token and ports come back after a restart, and no other user can read them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from s2vnet.server.saved_address import FILE, SavedAddress


def test_each_scan_keeps_its_port_and_all_share_the_token(tmp_path: Path) -> None:
    first = SavedAddress(tmp_path, tmp_path / "one.nii.gz")
    assert first.port is None
    first.save(4001)
    other = SavedAddress(tmp_path, None)
    assert (other.token, other.port) == (first.token, None)
    other.save(4002)
    again = SavedAddress(tmp_path, tmp_path / "one.nii.gz")
    assert (again.token, again.port) == (first.token, 4001)
    assert "one.nii.gz" not in (tmp_path / FILE).read_text()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_the_token_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    address = SavedAddress(tmp_path, None)
    address.save(4001)
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    (tmp_path / FILE).chmod(0o644)
    assert SavedAddress(tmp_path, None).token != address.token


@pytest.mark.parametrize("content", ["", "[]", '{"token": 1, "ports": {}}', '{"token": "short", "ports": {}}'])
def test_a_damaged_file_is_replaced(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    (tmp_path / FILE).chmod(0o600)
    address = SavedAddress(tmp_path, None)
    address.save(1)
    assert SavedAddress(tmp_path, None).token == address.token
