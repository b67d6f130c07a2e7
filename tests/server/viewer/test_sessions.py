"""Sessions in the viewer: they are continued, survive a restart of the server, and say what has not been sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2
import numpy as np
from viewer_page import Viewer, running

from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.server.settings import Settings

TOKEN = "0123456789abcdef"


def test_a_scan_chosen_again_offers_its_session(viewer: Viewer) -> None:
    viewer.open()
    viewer.click((6, 9, 5))
    first = viewer.state()["session"]
    viewer.page.get_by_role("button", name="Scans").click()
    row = viewer.page.get_by_role("button", name="one.nii.gz")
    row.filter(has_text="1 prompt, ").click()
    viewer.page.get_by_role("button", name="Continue (1 prompt, ").wait_for()
    viewer.press("Enter")
    viewer.until(f"s2vnet.ready && s2vnet.state.session === '{first}'")
    assert len(viewer.entries()) == 1
    viewer.page.get_by_role("button", name="Scans").click()
    row.click()
    viewer.page.get_by_role("button", name="Start again").click()
    viewer.until(f"s2vnet.ready && s2vnet.state.session !== '{first}'")
    assert viewer.entries() == []


def test_an_open_page_survives_a_restart_and_sends_what_waits_once(
    page: Any, settings: Callable[..., Settings], segmenter: Segmenter, own: Session
) -> None:
    changes = {"token": TOKEN, "list_sessions": True}
    with running(settings(**changes), segmenter) as port:
        page.goto(f"http://127.0.0.1:{port}/?token={TOKEN}")
        viewer = Viewer(page, port).open()
        name = viewer.state()["session"]
    page.locator("#link", has_text="Connection lost").wait_for()
    viewer.press("p", "1")
    viewer.go((6, 9, 5))
    page.mouse.click(*viewer.at((6, 9, 5)))
    page.locator("#prompts li", has_text="not sent yet").wait_for()
    page.locator("#link", has_text="1 operation waits").wait_for()
    with running(settings(**changes), segmenter, port):
        viewer.until("s2vnet.ready && s2vnet.state.entries.length === 1")
        own.add(*viewer.entries())
        np.testing.assert_array_equal(viewer.labels(), own.labels)
        assert page.locator("#prompts li", has_text="not sent yet").count() == 0
        key = viewer.state()["taken"][-1]
        again = {"op": "add", "entries": [{"kind": "point", "class_id": 1, "voxel": [1, 1, 1]}], "key": key}
        header = {"authorization": f"Bearer {TOKEN}"}
        answer = httpx2.post(f"http://127.0.0.1:{port}/api/sessions/{name}/prompts", json=again, headers=header)
        assert (answer.status_code, len(answer.json()["entries"])) == (200, 1)
        page.goto(f"http://127.0.0.1:{port}/#scan=one.nii.gz")
        page.get_by_role("button", name="Continue (1 prompt, ").click()
        viewer.until(f"s2vnet.ready && s2vnet.state.session === '{name}'")


def test_a_page_whose_token_is_refused_says_so(
    page: Any, settings: Callable[..., Settings], segmenter: Segmenter
) -> None:
    with running(settings(token=TOKEN), segmenter) as port:
        page.goto(f"http://127.0.0.1:{port}/?token={TOKEN}")
        viewer = Viewer(page, port).open()
    page.locator("#link", has_text="Connection lost").wait_for()
    with running(settings(token=TOKEN[::-1]), segmenter, port):
        page.locator("#link", has_text="does not accept this page").wait_for()
        context = page.context.new_page()
        context.goto(f"http://127.0.0.1:{port}/?token={TOKEN[::-1]}")
        viewer.until("s2vnet.ready")
