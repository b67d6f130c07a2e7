"""Jobs on many images."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from fastapi import HTTPException

from s2vnet.errors import InputError
from s2vnet.server.protocols.monailabel.background import BackgroundJobs


def test_an_error_of_one_image_does_not_end_the_job() -> None:
    jobs = BackgroundJobs("work")

    def work(image: str) -> Any:
        if image == "b":
            raise InputError("b is damaged")
        if image == "c":
            raise RuntimeError("a secret")
        return None if image == "d" else image.upper()

    jobs.start({"x": 1}, ["a", "b", "c", "d", "e"], work)
    jobs.wait(10)
    job = jobs.status(False, False)
    assert (job["status"], job["result"], job["request"]) == ("DONE", {"a": "A", "e": "E"}, {"x": 1})
    assert job["details"][1:3] == ["2 of 5: b is damaged", "3 of 5: RuntimeError"]


def test_one_job_at_a_time_which_can_be_stopped() -> None:
    jobs, begun = BackgroundJobs("work"), threading.Event()
    with pytest.raises(HTTPException, match="404"):
        jobs.status(False, False)
    assert jobs.stop() is None

    def work(image: str) -> None:
        begun.set()
        while True:
            jobs.require_unstopped()

    first = jobs.start({}, ["a"], work)
    assert begun.wait(10)
    with pytest.raises(HTTPException, match="429"):
        jobs.start({}, ["a"], work)
    assert jobs.status(False, True)["status"] == "RUNNING"
    stopped = jobs.stop()
    assert stopped is not None
    assert (stopped["id"], stopped["status"]) == (first["id"], "STOPPED")
    with pytest.raises(HTTPException, match="404"):
        jobs.status(False, True)
    jobs.start({}, ["a"], lambda image: image)
    jobs.wait(10)
    assert [job["status"] for job in jobs.status(True, False)] == ["STOPPED", "DONE"]
