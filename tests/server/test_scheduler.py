"""One thread at a time, the most urgent first, without starvation."""

from __future__ import annotations

import threading
import time

from s2vnet.server.scheduler import CLICK, ENCODING, Scheduler


def start(*calls: object) -> list[threading.Thread]:
    threads = []
    for call in calls:
        threads.append(threading.Thread(target=call, daemon=True))  # type: ignore[arg-type]
        threads[-1].start()
        time.sleep(0.05)  # so that they wait in this order
    return threads


def test_urgent_threads_run_first_and_others_in_order() -> None:
    scheduler, order = Scheduler(), []

    def waiting(name: str, deadline_s: float) -> object:
        def call() -> None:
            with scheduler.acquire(deadline_s):
                order.append(name)

        return call

    with scheduler.acquire(ENCODING):
        threads = start(
            waiting("encoding 1", ENCODING), waiting("click 1", CLICK), waiting("encoding 2", ENCODING),
            waiting("click 2", CLICK),
        )  # fmt: skip
        assert order == []
    for thread in threads:
        thread.join(10)
    assert order == ["click 1", "click 2", "encoding 1", "encoding 2"]


def test_yielding_lets_urgent_and_equal_threads_run_once() -> None:
    scheduler, order, busy = Scheduler(), [], threading.Event()

    def encoding() -> None:
        with scheduler.acquire(ENCODING):
            busy.wait(10)
            for n in range(3):
                order.append(f"slice {n}")
                scheduler.yield_to(ENCODING)

    def click() -> None:
        with scheduler.acquire(CLICK):
            order.append("click")

    threads = start(encoding, click, encoding)
    busy.set()
    for thread in threads:
        thread.join(10)
    assert order[:2] == ["slice 0", "click"]
    assert order[2:] == ["slice 0", "slice 1", "slice 1", "slice 2", "slice 2"]


def test_a_click_does_not_wait_for_the_end_of_encoding() -> None:
    scheduler, order = Scheduler(), []

    def encoding() -> None:
        with scheduler.acquire(ENCODING):
            order.append("encoding")

    with scheduler.acquire(CLICK):
        threads = start(encoding)
        scheduler.yield_to(CLICK)  # nobody so urgent waits
        time.sleep(0.05)
        order.append("click")
    threads[0].join(10)
    assert order == ["click", "encoding"]


def test_an_error_releases_the_lock() -> None:
    scheduler = Scheduler()
    try:
        with scheduler.acquire(CLICK):
            raise ValueError
    except ValueError:
        pass
    with scheduler.acquire(ENCODING):
        pass


def test_no_thread_starves() -> None:
    scheduler, over = Scheduler(), threading.Event()

    def clicking() -> None:
        while not over.is_set():
            with scheduler.acquire(CLICK):
                time.sleep(0.01)

    def encoding() -> None:
        with scheduler.acquire(0.3):
            over.set()

    threads = start(clicking, clicking, clicking)
    began = time.monotonic()
    start(encoding)[0].join(10)
    in_time = over.is_set()
    over.set()  # else the clicks would not end
    assert in_time
    assert time.monotonic() - began >= 0.25  # the clicks went first for a while
    for thread in threads:
        thread.join(10)


def test_scans_yield_to_clicks_but_not_to_each_other() -> None:
    scheduler, order, busy = Scheduler(), [], threading.Event()

    def encoding(name: str) -> object:
        def call() -> None:
            with scheduler.acquire(0.01):  # its deadline passes at once
                busy.wait(10)
                for n in range(3):
                    order.append(f"{name} {n}")
                    scheduler.yield_to(CLICK)

        return call

    def click() -> None:
        with scheduler.acquire(CLICK):
            order.append("click")

    threads = start(encoding("a"), encoding("b"), click)
    busy.set()
    for thread in threads:
        thread.join(10)
    assert order == ["a 0", "click", "a 1", "a 2", "b 0", "b 1", "b 2"]
