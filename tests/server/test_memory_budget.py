"""The memory budget holds while several sessions compute, without deadlocks."""

from __future__ import annotations

import random
import threading
import time

import pytest

from s2vnet.errors import InputError
from s2vnet.server.memory_budget import SessionMemoryBudget


class Offloadable:
    """A session of a size in bytes, all of which can be offloaded."""

    def __init__(self, size: int, last_used: float = 0) -> None:
        self.name, self.size, self.last_used, self.closed = "one", size, last_used, False
        self.loaded = self.computing = False

    @property
    def nbytes(self) -> int:
        return self.size if self.loaded else 0

    @property
    def offloaded_nbytes(self) -> int:
        return 0 if self.loaded else self.size

    def offload(self) -> None:
        assert not self.computing
        self.loaded = False


def test_the_least_recently_used_are_offloaded_and_the_last_one_stays() -> None:
    sessions = [Offloadable(4, last_used) for last_used in (2, 1, 3)]
    memory = SessionMemoryBudget(9, lambda: sessions)
    for session in sessions:
        session.loaded = True
    memory.offload_idle()
    assert [session.loaded for session in sessions] == [True, False, True]
    SessionMemoryBudget(0, lambda: sessions).offload_idle()
    assert [session.loaded for session in sessions] == [False, False, True]


@pytest.mark.parametrize(("limit", "size"), [(10, 4), (10, 12), (0, 1)])
def test_concurrent_sessions_stay_within_the_limit_or_run_alone(limit: int, size: int) -> None:
    sessions = [Offloadable(size) for _ in range(6)]
    memory, most = SessionMemoryBudget(limit, lambda: sessions), max(limit, size)
    seen: list[int] = []

    def work(session: Offloadable, chance: random.Random) -> None:
        for _ in range(20):
            with memory.reserve(session):
                time.sleep(chance.random() / 1000)
                session.loaded = session.computing = True
                seen.append(memory.excess_nbytes + limit)
                time.sleep(chance.random() / 500)
                session.last_used, session.computing = time.monotonic(), False

    threads = [
        threading.Thread(target=work, args=(session, random.Random(n)), daemon=True)
        for n, session in enumerate(sessions)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert len(seen) == 120
    assert max(seen) <= most


def test_sessions_are_opened_in_order_and_within_the_limit() -> None:
    sessions = [Offloadable(4) for _ in range(5)]
    memory = SessionMemoryBudget(9, lambda: sessions)
    order: list[int] = []

    def open_one(n: int) -> None:
        with memory.reserve_for_opening(sessions[n]):
            order.append(n)
            time.sleep(0.01)
            sessions[n].loaded = True
            assert memory.excess_nbytes <= 0

    with memory.reserve(sessions[4]):
        sessions[4].loaded = True
        threads = [threading.Thread(target=open_one, args=(n,), daemon=True) for n in range(4)]
        for thread in threads:
            thread.start()
            time.sleep(0.005)
        for thread in threads:
            thread.join(30)
    assert order == [0, 1, 2, 3]
    assert sessions[4].loaded


def test_closed_sessions_do_not_wait() -> None:
    first, second = Offloadable(5), Offloadable(5)
    memory = SessionMemoryBudget(5, lambda: [first, second])
    with memory.reserve(first):
        first.loaded = True
        second.closed = True
        with memory.reserve(second):
            pass


def test_work_that_needs_more_than_everything_is_refused_before_it_starts() -> None:
    budget = SessionMemoryBudget(2**20, list)
    budget.require(2**20)
    with pytest.raises(InputError, match=r"memory_mb=2$"):
        budget.require(2**20 + 1)


def test_what_the_process_takes_without_sessions_counts() -> None:
    budget = SessionMemoryBudget(3 * 2**20, list, resident=2**20)
    budget.require(2 * 2**20)
    with pytest.raises(InputError, match=r"memory_mb=4$"):
        budget.require(2 * 2**20 + 1)
    with pytest.raises(InputError, match=r"takes 3 MB without a scan, more than the 2 MB .* memory_mb=4 or more"):
        SessionMemoryBudget(2**20, list, resident=2 * 2**20)
