"""Memory that sessions share: never more than there is while several compute, and never a deadlock."""

from __future__ import annotations

import random
import threading
import time

import pytest

from s2vnet.server.memory_budget import SessionMemoryBudget


class Offloadable:
    """A session of so many bytes, all of which can be put away."""

    def __init__(self, size: int, asked: float = 0) -> None:
        self.name, self.size, self.asked, self.closed = "one", size, asked, False
        self.here = self.computing = False

    @property
    def nbytes(self) -> int:
        return self.size if self.here else 0

    @property
    def offloaded_nbytes(self) -> int:
        return 0 if self.here else self.size

    def offload(self) -> None:
        assert not self.computing
        self.here = False


def test_those_idle_for_longest_give_way_and_the_last_one_used_stays() -> None:
    guests = [Offloadable(4, asked) for asked in (2, 1, 3)]
    room = SessionMemoryBudget(9, lambda: guests)
    for guest in guests:
        guest.here = True
    room.tidy()
    assert [guest.here for guest in guests] == [True, False, True]
    SessionMemoryBudget(0, lambda: guests).tidy()
    assert [guest.here for guest in guests] == [False, False, True]


@pytest.mark.parametrize(("limit", "size"), [(10, 4), (10, 12), (0, 1)])
def test_many_at_once_stay_within_the_limit_or_are_alone(limit: int, size: int) -> None:
    guests = [Offloadable(size) for _ in range(6)]
    room, most = SessionMemoryBudget(limit, lambda: guests), max(limit, size)
    seen: list[int] = []

    def work(guest: Offloadable, chance: random.Random) -> None:
        for _ in range(20):
            with room.place(guest):
                time.sleep(chance.random() / 1000)
                guest.here = guest.computing = True
                seen.append(room.excess + limit)
                time.sleep(chance.random() / 500)
                guest.asked, guest.computing = time.monotonic(), False

    threads = [
        threading.Thread(target=work, args=(guest, random.Random(n)), daemon=True) for n, guest in enumerate(guests)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert len(seen) == 120
    assert max(seen) <= most


def test_those_who_are_opened_come_in_turn_and_leave_room_for_others() -> None:
    guests = [Offloadable(4) for _ in range(5)]
    room = SessionMemoryBudget(9, lambda: guests)
    order: list[int] = []

    def open_one(n: int) -> None:
        with room.opening(guests[n]):
            order.append(n)
            time.sleep(0.01)
            guests[n].here = True
            assert room.excess <= 0

    with room.place(guests[4]):
        guests[4].here = True
        threads = [threading.Thread(target=open_one, args=(n,), daemon=True) for n in range(4)]
        for thread in threads:
            thread.start()
            time.sleep(0.005)
        for thread in threads:
            thread.join(30)
    assert order == [0, 1, 2, 3]
    assert guests[4].here


def test_who_is_closed_does_not_wait() -> None:
    first, second = Offloadable(5), Offloadable(5)
    room = SessionMemoryBudget(5, lambda: [first, second])
    with room.place(first):
        first.here = True
        second.closed = True
        with room.place(second):
            pass
