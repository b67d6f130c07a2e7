"""Files that are whole or not there."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from disks import fill, lock

from s2vnet.errors import InputError
from s2vnet.utils.atomic_write import atomic_write, remove_unfinished, require_writable


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file that says "old", alone in its folder."""
    path = tmp_path / "a.json"
    path.write_text("old")
    return path


def test_the_file_appears_at_the_end(old: Path) -> None:
    with atomic_write(old) as temporary:
        temporary.write_text("new")
        assert temporary.name == old.name, "writers choose the format by the name"
        assert temporary.parent.parent == old.parent, "a rename must not cross file systems"
        assert temporary.parent.name.startswith(".")
        assert old.read_text() == "old"
    assert old.read_text() == "new"
    assert names(old.parent) == ["a.json"]


def test_a_new_file_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with atomic_write(Path("b.txt")) as temporary:
        temporary.write_text("new")
    assert names(tmp_path) == ["b.txt"]


def test_formats_of_two_files_move_together(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.mhd") as temporary:
        temporary.write_text("header")
        temporary.with_suffix(".raw").write_text("data")
        temporary.with_suffix(".zraw").write_text("more")
    assert names(tmp_path) == ["a.mhd", "a.raw", "a.zraw"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit, InputError])
def test_an_interrupt_leaves_the_old_file(old: Path, error: type[BaseException]) -> None:
    def write() -> None:
        with atomic_write(old) as temporary:
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
        with atomic_write(old) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(InputError, match=f"cannot write .*a.json: {reason}; choose an existing, writable folder"):
        write()
    assert old.read_text() == "old"
    assert names(old.parent) == ["a.json"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "a.json"
    with pytest.raises(InputError, match="No such file or directory"), atomic_write(path):
        raise AssertionError("the body must not run")


def test_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json" / "inside").mkdir(parents=True)

    def write() -> None:
        with atomic_write(tmp_path / "a.json") as temporary:
            temporary.write_text("new")

    with pytest.raises(InputError, match="Is a directory"):
        write()
    assert names(tmp_path) == ["a.json"]


@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may write to every folder")
def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match="Permission denied"), atomic_write(tmp_path / "a.json"):
            raise AssertionError("the body must not run")
    finally:
        tmp_path.chmod(0o700)


def test_a_disk_that_is_full_or_locked(disk: Callable[[int], Path]) -> None:
    folder = disk(1 << 18)
    path = folder / "a.json"
    path.write_text("old")

    def write() -> None:
        with atomic_write(path) as temporary:
            temporary.write_bytes(bytes(1 << 16))

    filling = fill(folder, left=1 << 14)
    with pytest.raises(InputError, match=r"a\.json: No space left on device; choose"):
        write()
    filling.unlink()
    lock(folder)
    with pytest.raises(InputError, match=r"a\.json: Read-only file system; choose"):
        write()
    with pytest.raises(InputError, match="disk: Read-only file system; choose"):
        require_writable(folder)
    assert path.read_text() == "old"
    assert names(folder) == ["a.json"]


def test_a_link_is_replaced_and_what_it_points_to_stays(old: Path) -> None:
    link = old.with_name("link.json")
    link.symlink_to(old)
    (old.parent / ".s2vnet-link").symlink_to(old.parent)
    with atomic_write(link) as temporary:
        temporary.write_text("new")
    remove_unfinished(old.parent)
    assert not link.is_symlink()
    assert (old.read_text(), link.read_text()) == ("old", "new")


WRITING = """
import sys
from pathlib import Path
from s2vnet.utils.atomic_write import atomic_write
print("ready", flush=True)
number = 0
while True:
    number += 1
    with atomic_write(Path(sys.argv[1])) as temporary, temporary.open("w") as file:
        for _ in range(1000):
            file.write(f"{number}\\n" * 40)
            file.flush()
"""


def test_killed_at_any_moment_of_writing_the_file_is_whole(tmp_path: Path) -> None:
    path, moments = tmp_path / "a.txt", random.Random(int(os.environ.get("S2VNET_SEED", "0")))
    path.write_text("0\n" * 40_000)
    written, unfinished = set(), 0
    for _ in range(8):
        with subprocess.Popen([sys.executable, "-c", WRITING, str(path)], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(moments.uniform(0, 0.2))
            process.kill()
        lines = path.read_text().splitlines()
        assert len(lines) == 40_000
        assert len(set(lines)) == 1
        written.add(lines[0])
        unfinished += len(names(tmp_path)) > 1
        remove_unfinished(tmp_path)
        assert names(tmp_path) == ["a.txt"]
    assert len(written) > 1
    assert unfinished > 0
