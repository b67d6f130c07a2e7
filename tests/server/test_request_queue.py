"""Requests of a queue run one after the other."""

from __future__ import annotations

import time

import anyio

from s2vnet.server.request_queue import TIMEOUT_S, RequestQueue


def test_one_request_runs_at_a_time_and_is_given_the_time_left() -> None:
    running, most, left = 0, 0, []

    def request(seconds: float) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        left.append(seconds)
        time.sleep(0.02)
        running -= 1

    async def main() -> None:
        queue = RequestQueue()
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(queue.run, request)

    anyio.run(main)
    assert most == 1
    assert TIMEOUT_S >= left[0] > left[1] > left[2] > TIMEOUT_S - 10
