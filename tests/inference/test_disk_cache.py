"""Records are read as they were written, whether they are in memory or on disk; disk errors are one line."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from disks import fill

from s2vnet.errors import InputError
from s2vnet.inference.disk_cache import DiskCache, MemoryBudget, is_in_memory


def test_tensors_and_strides_are_preserved_in_memory_and_on_disk() -> None:
    budget = MemoryBudget(3000)
    cache = DiskCache(budget, 5)
    given = {n: [torch.randn(1, 3, 5, 7).permute(0, 2, 1, 3), torch.randn(1, 9).half()] for n in range(5)}
    for n, tensors in given.items():
        cache[n] = tensors
    given[4] = [tensor + 1 for tensor in given[4]]
    cache[4] = given[4]
    assert budget.available < 3000
    for n, tensors in given.items():
        for found, expected in zip(cache[n], tensors, strict=True):
            assert torch.equal(found, expected)
            assert found.stride() == expected.stride()
    cache.close()
    assert budget.available == 3000
    assert 4 not in cache


def test_too_little_disk_space_is_reported_at_the_first_record() -> None:
    cache = DiskCache(MemoryBudget(0), 1 << 40)
    with pytest.raises(InputError, match=r"of disk space are needed in .* TMPDIR"):
        cache[0] = [torch.zeros(1, 1000)]


def test_full_disk_and_truncated_file_are_reported(
    disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = disk(1 << 20)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    cache = DiskCache(MemoryBudget(0), 2)
    given = [torch.randn(1, 100_000)]
    cache[0] = given
    assert list(folder.iterdir()) == []  # the file has no name, so that a killed process leaves none
    filling = fill(folder)
    with pytest.raises(InputError, match=f"^cannot write to {folder}: No space left on device; set TMPDIR"):
        cache[1] = given
    filling.unlink()
    cache[1] = given
    assert all(torch.equal(cache[n][0], given[0]) for n in range(2))
    assert cache._file is not None
    cache._file.truncate(500_000)
    with pytest.raises(InputError, match=f"^cannot read from {folder}: .* truncated; set TMPDIR"):
        cache[1]


def test_several_threads_read() -> None:
    cache = DiskCache(MemoryBudget(0), 64)
    for n in range(64):
        cache[n] = [torch.full((1, 200_000), float(n))]
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda n: cache[n][0], [*range(64)] * 3)
        assert all(bool((one == n % 64).all()) for n, one in enumerate(found))


def test_only_views_are_copied() -> None:
    cache, whole = DiskCache(MemoryBudget(1 << 20), 1), torch.randn(2, 50)
    cache[0] = [whole[:1], whole]
    part, same = cache[0]
    assert same.data_ptr() == whole.data_ptr()
    assert part.untyped_storage().nbytes() == part.nbytes
    assert torch.equal(part, whole[:1])


def test_without_a_limit_nothing_is_refused(
    disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = disk(1 << 20)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    cache = DiskCache(MemoryBudget(0, strict=False), 8)
    given = [torch.randn(1, 100_000) for _ in range(8)]  # 3.2 MB
    for n, tensor in enumerate(given):
        cache[n] = [tensor]
    assert all(torch.equal(cache[n][0], tensor) for n, tensor in enumerate(given))
    assert list(folder.iterdir()) == []
    (message,) = caplog.messages
    assert "are kept in memory, since " in message
    assert "TMPDIR" in message


def test_a_disk_that_fills_meanwhile_does_not_end_the_work(
    disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = disk(2 << 20)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setattr("s2vnet.inference.disk_cache.is_in_memory", lambda folder: False)  # the disk may be
    cache = DiskCache(MemoryBudget(0, strict=False), 4)
    given = [torch.randn(1, 100_000) for _ in range(4)]
    cache[0] = [given[0]]
    filling = fill(folder)
    for n in (1, 2, 3):
        cache[n] = [given[n]]
    filling.unlink()
    assert all(torch.equal(cache[n][0], tensor) for n, tensor in enumerate(given))
    assert "the rest is kept in memory" in caplog.text


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="Linux only")
def test_folders_in_memory_are_known(tmp_path: Path) -> None:
    assert is_in_memory("/dev/shm")
    assert not is_in_memory("/proc")
    link = tmp_path / "link"
    link.symlink_to("/dev/shm")
    assert is_in_memory(str(link))
