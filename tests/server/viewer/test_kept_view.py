"""What a reload of the page keeps."""

from __future__ import annotations

from typing import Any

from viewer_page import Viewer


def test_a_reload_keeps_the_view(viewer: Viewer) -> None:
    viewer.open()
    page = viewer.page
    page.locator("#layout").select_option("coronal")
    page.locator("#window").select_option("bone")
    eye = page.get_by_role("button", name="show right", exact=True)
    eye.click()
    viewer.press("s")
    viewer.press("2")
    viewer.go((9, 4, 6))

    def view() -> list[Any]:
        chosen = [page.locator(name).input_value() for name in ("#layout", "#window")]
        state = page.evaluate("() => [s2vnet.scene.at, s2vnet.scene.window, s2vnet.tools.tool, s2vnet.tools.classId]")
        return [*chosen, *state, eye.get_attribute("aria-pressed")]

    before = view()
    assert [*before[:3], *before[4:]] == ["coronal", "bone", [9, 4, 6], "scribble", 2, "false"]
    page.reload()
    viewer.until("s2vnet.ready")
    assert view() == before
