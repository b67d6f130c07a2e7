"""What a click did is seen: changed voxels flash, and their classes are named with ml."""

from __future__ import annotations

import numpy as np
from viewer_page import Viewer

from s2vnet.interactive.session import Session
from s2vnet.prompts import Point


def far_click(own: Session) -> Point:
    """A click that changes more than its own slice, and is undone."""
    rng = np.random.default_rng(1)
    for _ in range(50):
        i, j, k = (int(rng.integers(3, n - 3)) for n in own.labels.shape)
        click = Point(class_id=int(rng.integers(1, 3)), voxel=(i, j, k))
        before = own.labels.copy()
        own.add(click)
        changed = set(np.argwhere(own.labels != before)[:, own.plane].tolist())
        own.undo()
        if len(changed - {click.voxel[own.plane]}) > 0:
            return click
    raise AssertionError("no click reaches another slice")


def test_changes_are_named_as_the_engine_counts_them(viewer: Viewer, own: Session) -> None:
    click = far_click(own)
    before = own.labels.copy()
    viewer.open()
    viewer.press(str(click.class_id))
    viewer.click(click.voxel)
    viewer.page.wait_for_function("() => document.querySelectorAll('.change').length")
    own.add(click)
    said = viewer.page.locator("#changes").inner_text()
    for class_id, (gained, lost) in own.last_changes.items():
        if class_id and max(gained, lost) >= 0.1:
            assert own.class_names[class_id] in said
            assert not gained or f"+{gained:.1f}" in said or f"+{gained:.2f}" in said or f"+{gained:.0f}" in said
            assert not lost or f"−{lost:.1f}" in said or f"−{lost:.2f}" in said or f"−{lost:.0f}" in said
    changed = own.labels != before
    slices = {int(k) for k in np.argwhere(changed)[:, own.plane]} - {click.voxel[own.plane]}
    plural = "slice" if len(slices) == 1 else "slices"
    assert viewer.page.locator("#changes-next").inner_text().startswith(f"{len(slices)} other {plural} changed")
    viewer.press("g")
    i, j, k = viewer.page.evaluate("() => s2vnet.scene.at")
    assert changed[i, j, k]
    assert (i, j, k)[own.plane] in slices
    with viewer.asking():
        viewer.press("Control+z")
    back = viewer.page.locator("#changes").inner_text()
    assert back.count("+") == said.count("−")


def test_changed_voxels_flash_and_fade(viewer: Viewer, own: Session) -> None:
    viewer.open()
    viewer.press("2" if own.labels[6, 9, 5] == 1 else "1")
    viewer.go((6, 9, 5))
    x, y = viewer.at((6, 9, 5))
    marks = "() => { const c = document.querySelector('#marks'); const d = c.getContext('2d')"
    marks += ".getImageData(0, 0, c.width, c.height).data; let n = 0;"
    marks += " for (let i = 0; i < d.length; i += 4) n += d[i] > 240 && d[i + 1] > 240 && d[i + 3] > 60; return n; }"
    quiet = viewer.page.evaluate(marks)
    viewer.page.mouse.click(x, y)
    viewer.page.wait_for_function(f"quiet => ({marks})() > quiet + 500", arg=quiet)
    viewer.page.wait_for_function(f"quiet => ({marks})() < quiet + 500", arg=quiet)


def test_looking_changes_nothing_and_takes_the_class_under_the_pointer(viewer: Viewer, own: Session) -> None:
    viewer.open()
    viewer.press("v", "2")
    i, j, k = (int(n) for n in np.argwhere(own.labels == 1)[len(np.argwhere(own.labels == 1)) // 2])
    viewer.go((i, j, k))
    viewer.page.mouse.click(*viewer.at((i, j, k)))
    viewer.until("s2vnet.tools.classId === 1")
    viewer.press("2", "c")
    viewer.until("s2vnet.tools.classId === 1")
    assert viewer.entries() == []
    viewer.press("/")
    viewer.page.keyboard.type(own.class_names[2][:3])
    viewer.press("Enter")
    viewer.until("s2vnet.tools.classId === 2")
    assert viewer.page.evaluate("() => document.activeElement.id") == "slices"


def test_a_scan_opens_in_look_mode(viewer: Viewer) -> None:
    viewer.page.goto(f"http://127.0.0.1:{viewer.port}/")
    viewer.page.get_by_role("button", name="one.nii.gz").click()
    viewer.until("s2vnet.ready")
    viewer.page.locator("#slices").click(position={"x": 200, "y": 200})
    assert viewer.page.get_by_role("button", name="Look V").get_attribute("aria-pressed") == "true"
    assert viewer.state()["entries"] == []
