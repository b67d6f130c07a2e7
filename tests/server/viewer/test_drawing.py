"""Drawing: windows, shapes of a class, the brush's options, the ruler and touch, in the page."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage
from viewer_page import Viewer

from s2vnet.interactive.session import Session


def test_a_window_step_draws_slices_within_50_ms(viewer: Viewer) -> None:
    viewer.open()
    took = viewer.page.evaluate(
        "() => { const start = performance.now(); s2vnet.scene.setWindow(0, 500); s2vnet.scene.flush();"
        " return performance.now() - start; }"
    )
    assert took < 50


def test_operations_on_a_class_are_entries_that_replay_and_undo(viewer: Viewer, own: Session) -> None:
    viewer.open()
    before = viewer.labels()
    class_id = int(np.bincount(before[before > 0]).argmax())
    viewer.press(str(class_id))
    whole = before == class_id
    cross = ndimage.generate_binary_structure(3, 1)
    grown = ndimage.binary_dilation(whole, cross) & (before == 0)
    with viewer.asking():
        viewer.page.get_by_label("change the whole class").select_option("grow")
    after = viewer.labels()
    np.testing.assert_array_equal(after == class_id, whole | grown)
    (entry,) = viewer.entries()
    assert entry.kind == "extent"
    own.add(entry)
    np.testing.assert_array_equal(own.labels, after)
    with viewer.asking():
        viewer.press("Control+z")
    np.testing.assert_array_equal(viewer.labels(), before)


SHAPES = """
async ([mask, free]) => {
  const { removeIslands, fillHoles, shrink, smooth } = await import("./tools/class_shapes.js");
  const shape = { size: [9, 9, 9], mask: Uint8Array.from(mask), free: Uint8Array.from(free) };
  return [removeIslands, fillHoles, shrink, smooth].map((change) => Array.from(change(shape)));
}
"""


def test_shapes_are_those_of_scipy(viewer: Viewer) -> None:
    mask = np.random.default_rng(0).random((9, 9, 9)) < 0.4
    mask[2:7, 2:7, 2:7] = True
    mask[4, 4, 4] = False
    free = ~mask
    free[4, 4, 4] = False  # of another class
    viewer.open()
    islands, filled, shrunk, smooth = (
        np.array(found, bool).reshape(mask.shape)
        for found in viewer.page.evaluate(SHAPES, [one.ravel().astype(int).tolist() for one in (mask, free)])
    )
    parts, _ = ndimage.label(mask)
    np.testing.assert_array_equal(islands, parts == np.bincount(parts[parts > 0]).argmax())
    np.testing.assert_array_equal(filled, mask | (ndimage.binary_fill_holes(mask) & free))
    np.testing.assert_array_equal(shrunk, ndimage.binary_erosion(mask))
    counts = ndimage.convolve(mask.astype(int), np.ones((3, 3, 3), int), mode="constant")
    np.testing.assert_array_equal(smooth, (counts >= 14) & (mask | free))


def test_the_brush_paints_a_ball_within_the_window(viewer: Viewer) -> None:
    viewer.open()
    viewer.press("1", "m")
    viewer.page.get_by_label("3D", exact=True).check()
    viewer.page.get_by_label("In window").check()
    low = viewer.page.evaluate("() => s2vnet.scene.valueAt([9, 9, 6])")
    viewer.page.evaluate("low => { s2vnet.tools.resize(3); s2vnet.scene.setWindow(low, low + 300); }", low)
    viewer.draw((9, 9, 6), (9, 9, 6))
    (mask,) = viewer.entries()
    voxels: Any = mask.voxels()  # type: ignore[union-attr]
    spacing = viewer.page.evaluate("() => s2vnet.scene.spacing")
    assert (np.linalg.norm((voxels - [9, 9, 6]) * spacing, axis=1) <= 3 + 1e-6).all()
    shown = [viewer.page.evaluate("voxel => s2vnet.scene.valueAt(voxel)", voxel) for voxel in voxels.tolist()]
    assert all(low <= value <= low + 300 for value in shown)


def test_the_ruler_measures_without_an_entry(viewer: Viewer) -> None:
    viewer.open()
    viewer.press("u")
    viewer.go((4, 6, 5))
    viewer.page.mouse.move(*viewer.at((4, 6, 5)))
    viewer.page.mouse.down()
    viewer.page.mouse.move(*viewer.at((9, 6, 5)))
    viewer.page.mouse.up()
    spacing = viewer.page.evaluate("() => s2vnet.scene.spacing")
    assert viewer.page.evaluate("() => s2vnet.tools.ruler.length") == 5 * spacing[0]
    assert viewer.entries() == []


def test_two_fingers_pan_and_zoom_and_one_gives_a_prompt(viewer: Viewer) -> None:
    viewer.open()
    viewer.press("1")
    viewer.go((9, 9, 6))
    touch = viewer.page.context.new_cdp_session(viewer.page)

    def fingers(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": x, "y": y, "id": n} for n, (x, y) in enumerate(places)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    x, y = viewer.at((9, 9, 6))
    before = np.subtract(viewer.at((10, 9, 6)), (x, y))
    fingers("touchStart", (x, y))
    fingers("touchStart", (x, y), (x + 50, y))
    fingers("touchMove", (x, y), (x + 100, y))
    fingers("touchEnd")
    after = np.subtract(viewer.at((10, 9, 6)), viewer.at((9, 9, 6)))
    np.testing.assert_allclose(after, 2 * before, rtol=0.1)
    assert viewer.entries() == []
    with viewer.asking():
        fingers("touchStart", viewer.at((9, 9, 6)))
        assert viewer.entries() == []
        fingers("touchEnd")
    (point,) = viewer.entries()
    assert (point.kind, point.voxel) == ("point", (9, 9, 6))
