"""Files that are whole or not there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from s2vnet.atomic import replacing
from s2vnet.types import InputError


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file that says "old", alone in its folder."""
    path = tmp_path / "a.json"
    path.write_text("old")
    return path


def test_the_file_appears_at_the_end(old: Path) -> None:
    with replacing(old) as temporary:
        temporary.write_text("new")
        assert temporary.name == old.name, "writers choose the format by the name"
        assert temporary.parent.parent == old.parent, "a rename must not cross file systems"
        assert temporary.parent.name.startswith(".")
        assert old.read_text() == "old"
    assert old.read_text() == "new"
    assert names(old.parent) == ["a.json"]


def test_a_new_file_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with replacing(Path("b.txt")) as temporary:
        temporary.write_text("new")
    assert names(tmp_path) == ["b.txt"]


def test_formats_of_two_files_move_together(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.mhd") as temporary:
        temporary.write_text("header")
        temporary.with_suffix(".raw").write_text("data")
        temporary.with_suffix(".zraw").write_text("more")
    assert names(tmp_path) == ["a.mhd", "a.raw", "a.zraw"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit, InputError])
def test_an_interrupt_leaves_the_old_file(old: Path, error: type[BaseException]) -> None:
    def write() -> None:
        with replacing(old) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert old.read_text() == "old"
    assert names(old.parent) == ["a.json"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [(OSError(errno.ENOSPC, "No space left on device"), "No space left on device"), (OSError("odd"), "odd")],
)
def test_a_full_disk_is_named_and_leaves_the_old_file(old: Path, error: OSError, reason: str) -> None:
    def write() -> None:
        with replacing(old) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(InputError, match=f"cannot write .*a.json: {reason}; choose an existing, writable folder"):
        write()
    assert old.read_text() == "old"
    assert names(old.parent) == ["a.json"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "a.json"
    with pytest.raises(InputError, match="No such file or directory"), replacing(path):
        raise AssertionError("the body must not run")


def test_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json" / "inside").mkdir(parents=True)

    def write() -> None:
        with replacing(tmp_path / "a.json") as temporary:
            temporary.write_text("new")

    with pytest.raises(InputError, match="Is a directory"):
        write()
    assert names(tmp_path) == ["a.json"]


@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may write to every folder")
def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match="Permission denied"), replacing(tmp_path / "a.json"):
            raise AssertionError("the body must not run")
    finally:
        tmp_path.chmod(0o700)
