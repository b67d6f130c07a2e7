from __future__ import annotations

import sys
from pathlib import Path

import pytest

from s2vnet.errors import InputError
from s2vnet.utils.folders import cache_folder, make_folder, state_folder


def test_a_folder_is_made_with_its_parents_and_may_exist(tmp_path: Path) -> None:
    for _ in range(2):
        make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_folder_below_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot make .*file/a: Not a directory; choose a writable folder"):
        make_folder(tmp_path / "file" / "a")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have other folders")
def test_cache_and_state_lie_in_the_users_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("S2VNET_CACHE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert (cache_folder(), state_folder()) == (tmp_path / ".cache" / "s2vnet", tmp_path / ".config" / "s2vnet")
    monkeypatch.setenv("S2VNET_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
