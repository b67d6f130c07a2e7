"""The viewer in a browser, with a server of its own: what is clicked is asked for, and what is shown is what is saved.

Whatever a prompt has to give is worked out again by a session without server and browser.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from random_models import ORIENTATIONS, reoriented
from viewer_page import PATIENCE_S, Viewer, running

from s2vnet.data.plan import IntensityScheme, Plan
from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.io.files import read_labels, write_image
from s2vnet.io.geometry import Volume
from s2vnet.prompts import NewClass, Point, Voxel
from s2vnet.server.settings import Settings


def far_reaching(own: Session) -> Point:
    """A click that changes other slices too."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        i, j, k = (int(rng.integers(3, n - 3)) for n in own.labels.shape)
        click = Point(class_id=(int(own.labels[i, j, k]) + 1) % 3, voxel=(i, j, k))
        before = own.labels.copy()
        own.add(click)
        changed = np.unique(np.argwhere(own.labels != before)[:, own.plane])
        own.undo()
        if click.class_id and len(set(changed.tolist()) - {click.voxel[own.plane]}) > 0:
            return click
    raise AssertionError("no click reaches another slice")


def test_the_automatic_labels_are_shown(viewer: Viewer, own: Session, tmp_path: Path) -> None:
    viewer.open()
    np.testing.assert_array_equal(viewer.labels(), own.labels)
    answer = viewer.page.request.get(f"http://127.0.0.1:{viewer.port}/api/sessions/{viewer.state()['session']}/labels")
    (tmp_path / "labels.nii.gz").write_bytes(answer.body())
    np.testing.assert_array_equal(read_labels(tmp_path / "labels.nii.gz").data, own.labels)


def test_a_click_changes_the_volume_and_undo_is_exact(viewer: Viewer, own: Session, tmp_path: Path) -> None:
    click = far_reaching(own)
    automatic = own.labels.copy()
    viewer.open()
    viewer.press(str(click.class_id))
    viewer.click(click.voxel)
    own.add(click)
    assert viewer.entries() == [click]
    assert viewer.page.evaluate("voxel => s2vnet.labelAt(...voxel)", list(click.voxel)) == click.class_id
    np.testing.assert_array_equal(viewer.labels(), own.labels)
    viewer.until("document.getElementById('status').textContent.includes('changed')")
    with viewer.page.expect_download() as saved:
        viewer.page.get_by_role("button", name="Save labels").click()
    saved.value.save_as(tmp_path / "saved.nii.gz")
    np.testing.assert_array_equal(read_labels(tmp_path / "saved.nii.gz").data, viewer.labels())
    assert saved.value.suggested_filename == "one-labels.nii.gz"
    with viewer.asking():
        viewer.press("Control+z")
    np.testing.assert_array_equal(viewer.labels(), automatic)
    with viewer.asking():
        viewer.press("Control+y")
    np.testing.assert_array_equal(viewer.labels(), own.labels)


def test_keys_alone_are_enough(viewer: Viewer, own: Session) -> None:
    viewer.open()
    viewer.page.locator("#slices").focus()
    viewer.go((8, 9, 5))
    viewer.press("2", "ArrowUp", "Shift+ArrowUp", "p")
    with viewer.asking():
        viewer.press("Enter")
    i, j, k = viewer.page.evaluate("() => s2vnet.scene.at")
    own.add(Point(class_id=2, voxel=(i, j, k)))
    assert (i, j, k) == (8, 10, 6)
    assert viewer.entries() == list(own.log)
    viewer.press("1", "t", "b")
    viewer.press("Enter", *["Shift+ArrowRight"] * 2, "Shift+ArrowDown")
    with viewer.asking():
        viewer.press("Enter")
    own.add(viewer.entries()[-1])
    assert viewer.state()["entries"][-1] | {"start": 0, "stop": 0} == {
        "class_id": 1, "positive": False, "kind": "box", "start": 0, "stop": 0
    }  # fmt: skip
    np.testing.assert_array_equal(viewer.labels(), own.labels)
    for _ in range(2):
        with viewer.asking():
            viewer.press("Control+z")
        own.undo()
    np.testing.assert_array_equal(viewer.labels(), own.labels)
    assert viewer.page.evaluate("() => document.activeElement.id") == "slices"
    viewer.press("?")
    viewer.page.get_by_role("heading", name="Click where it is wrong").wait_for()
    viewer.press("Escape", "3")  # no such class
    assert viewer.page.evaluate("() => s2vnet.tools.classId") == 1


def test_every_tool_asks_for_what_was_drawn(viewer: Viewer, own: Session) -> None:
    viewer.open()
    viewer.press("2", "s")
    viewer.draw((6, 6, 5), (9, 6, 5))
    viewer.press("l")
    viewer.draw((5, 5, 5), (9, 5, 5), (9, 9, 5), (5, 9, 5))
    viewer.press("b", "1")
    viewer.draw((10, 12, 6), (7, 8, 6))
    viewer.press("m")
    viewer.page.evaluate("() => s2vnet.tools.resize(1.2)")
    viewer.draw((9, 9, 7), (11, 9, 7))
    viewer.press("p")
    viewer.page.keyboard.down("Shift")
    viewer.click((6, 10, 8))
    viewer.page.keyboard.up("Shift")
    scribble, lasso, box, mask, negative = viewer.entries()
    assert scribble.model_dump()["voxels"] == tuple((i, 6, 5) for i in (6, 7, 8, 9))
    assert lasso.model_dump()["axis"] == 2
    assert {(5, 5, 5), (9, 5, 5), (9, 9, 5), (5, 9, 5)} <= set(lasso.model_dump()["vertices"])
    assert (box.model_dump()["start"], box.model_dump()["stop"]) == ((7, 8, 6), (11, 13, 7))
    assert {(9, 9, 7), (10, 9, 7), (11, 9, 7), (9, 10, 7)} <= {tuple(voxel) for voxel in mask.voxels().tolist()}  # type: ignore[union-attr]
    assert negative == Point(class_id=1, positive=False, voxel=(6, 10, 8))
    assert viewer.labels()[6, 10, 8] != 1
    own.add(*viewer.entries())
    np.testing.assert_array_equal(viewer.labels(), own.labels)
    viewer.page.locator('[data-index="1"] .go').focus()  # newest first: the lasso
    with viewer.asking():
        viewer.press("Delete")
    own.remove(1)
    assert viewer.entries() == list(own.log)
    np.testing.assert_array_equal(viewer.labels(), own.labels)
    viewer.press("r")
    with viewer.asking():
        viewer.page.get_by_role("button", name="Yes").click()
    assert viewer.entries() == []


def test_locks_and_notes_and_doubtful_places(viewer: Viewer, own: Session) -> None:
    viewer.open()
    with viewer.asking():
        viewer.page.get_by_role("button", name="lock right", exact=True).click()
    viewer.page.locator("#slices").focus()
    viewer.press("2")
    viewer.click((6, 9, 5))
    own.add(*viewer.entries())
    assert viewer.page.get_by_role("button", name="lock right", exact=True).get_attribute("aria-pressed") == "true"
    viewer.page.locator("#notes", has_text="locked").wait_for()
    np.testing.assert_array_equal(viewer.labels(), own.labels)
    places = own.places_to_check()
    assert len(places) > 0
    for _ in range(2):  # after the last one it begins again
        for number, place in enumerate(places, start=1):
            viewer.press("e")
            viewer.page.get_by_text(f"doubtful place {number} of {len(places)}").first.wait_for()
            viewer.until(f"s2vnet.scene.at.join() === '{','.join(map(str, place))}'")


def test_a_class_that_the_log_adds_is_listed_with_its_prompts(viewer: Viewer, own: Session, tmp_path: Path) -> None:
    lesion, click = NewClass(class_id=3, name="lesion"), Point(class_id=3, voxel=(9, 9, 6))
    viewer.open()
    own.add(lesion, click)
    own.save_log(tmp_path / "log.json")
    with viewer.asking():
        viewer.page.set_input_files("#log-file", tmp_path / "log.json")
    np.testing.assert_array_equal(viewer.labels(), own.labels)
    assert viewer.page.locator("#prompts .name").all_text_contents() == ["+ lesion, point", "class lesion"]
    viewer.go((9, 9, 6))
    viewer.page.wait_for_function("() => document.querySelector('#readout').textContent.endsWith('lesion')")
    assert viewer.errors == []


def test_a_log_goes_out_and_comes_back(viewer: Viewer, own: Session, tmp_path: Path) -> None:
    viewer.open()
    viewer.click((6, 9, 5))
    own.add(*viewer.entries())
    with viewer.page.expect_download() as saved:
        viewer.page.get_by_role("button", name="Save prompts").click()
    saved.value.save_as(tmp_path / "log.json")
    with viewer.asking():
        viewer.press("Control+z")
    with viewer.asking():
        viewer.page.set_input_files("#log-file", tmp_path / "log.json")
    np.testing.assert_array_equal(viewer.labels(), own.labels)
    other = json.loads((tmp_path / "log.json").read_text()) | {"shape": [1, 2, 3]}
    (tmp_path / "other.json").write_text(json.dumps(other))
    viewer.page.set_input_files("#log-file", tmp_path / "other.json")
    viewer.page.get_by_role("alert").filter(has_text="another shape").wait_for()


def test_a_reload_and_a_restart_come_back_to_the_same(
    page: Any, settings: Callable[..., Settings], segmenter: Segmenter, own: Session
) -> None:
    with running(settings(), segmenter) as port:
        viewer = Viewer(page, port).open()
        viewer.click((6, 9, 5))
        own.add(*viewer.entries())
        name = viewer.state()["session"]
        page.reload()
        viewer.until("s2vnet.ready")
        assert (viewer.state()["session"], viewer.entries()) == (name, list(own.log))
        np.testing.assert_array_equal(viewer.labels(), own.labels)
    page.get_by_text("Connection lost").wait_for()
    time.sleep(0.1)
    with running(settings(), segmenter, port):
        viewer.until("s2vnet.ready")
        np.testing.assert_array_equal(viewer.labels(), own.labels)
        assert not page.get_by_text("Connection lost").is_visible()
        with viewer.asking():
            viewer.press("Control+z")
        own.undo()
        np.testing.assert_array_equal(viewer.labels(), own.labels)


def test_while_all_places_are_taken_it_waits_for_one(
    page: Any, settings: Callable[..., Settings], segmenter: Segmenter
) -> None:
    lease = 4.0
    with running(settings(max_sessions=1, lease_s=lease), segmenter) as port:
        viewer = Viewer(page, port).open()
        name = viewer.state()["session"]
        page.goto("about:blank")
        address, end = f"http://127.0.0.1:{port}/api/sessions", time.monotonic() + PATIENCE_S
        while httpx2.post(address, json={"image": "one.nii.gz"}).status_code != 201:  # another takes its place
            assert time.monotonic() < end
            time.sleep(0.2)
        page.goto(f"http://127.0.0.1:{port}/#{name}")
        page.get_by_role("alert").filter(has_text="all 1 sessions are taken").wait_for()
        viewer.until("s2vnet.ready")
        assert viewer.state()["session"] == name


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_a_click_is_the_voxel_that_is_seen(
    page: Any, settings: Callable[..., Settings], segmenter: Segmenter, bordered: Volume, tmp_path: Path, name: str
) -> None:
    turned = reoriented(bordered, *ORIENTATIONS[name])
    volume = Volume(turned.data.copy(), turned.geometry)
    seen: Voxel = (4, 5, 6)
    volume.data[:, *seen] = 5000
    (tmp_path / "data").mkdir()
    write_image(tmp_path / "data" / "one.nii.gz", volume)
    with running(settings(data=tmp_path / "data"), segmenter) as port:
        viewer = Viewer(page, port).open()
        viewer.press("h", "1")
        for layout in ("axial", "sagittal", "coronal"):
            page.get_by_label("View").select_option(layout)
            viewer.go(seen)
            page.evaluate("() => s2vnet.scene.setWindow(1000, 3000)")
            picture = viewer.picture()
            bright = np.argwhere(picture > 0.98 * picture.max())  # drawn smoothly: the voxel's middle
            assert picture.max() > 0.9
            y, x = bright.mean(0)
            box = page.locator("#slices").bounding_box()
            with viewer.asking():
                page.mouse.click(box["x"] + x, box["y"] + y)
            assert viewer.entries() == [Point(class_id=1, voxel=seen)]
            with viewer.asking():
                viewer.press("Control+z")  # its mark lies on the bright voxel
        assert viewer.errors == []


def test_labels_are_drawn_where_they_are(
    page: Any, settings: Callable[..., Settings], segmenter: Segmenter, bordered: Volume, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    write_image(tmp_path / "data" / "one.nii.gz", reoriented(bordered, *ORIENTATIONS["permuted and flipped"]))
    with running(settings(data=tmp_path / "data"), segmenter) as port:
        viewer = Viewer(page, port).open()
        labels = viewer.labels()
        page.evaluate(  # the image black, class 1 white, others black, no outlines
            "() => { const { scene } = s2vnet; scene.setWindow(1e6, 2e6);"
            " scene.setLabelStyle({opacity: 1, outline: false});"
            " scene.setColors([0, 1, 2].map(id => ({id, color: id === 1 ? '#ffffff' : '#000000', visible: true}))); }"
        )
        axis = page.evaluate("() => s2vnet.scene.fileAxis(2)")
        depth = int(np.bincount(np.argwhere(labels == 1)[:, axis]).argmax())
        viewer.go(tuple(depth if n == axis else 0 for n in range(3)))  # type: ignore[arg-type]
        picture, box = viewer.picture(), page.locator("#slices").bounding_box()
        for voxel in np.ndindex(labels.shape):
            if voxel[axis] == depth:
                x, y = viewer.at(voxel)
                shown = picture[int(y - box["y"]), int(x - box["x"])] > 0.9
                assert shown == (labels[voxel] == 1), voxel


def test_a_page_without_niivue_says_what_to_do(
    page: Any, settings: Callable[..., Settings], segmenter: Segmenter
) -> None:
    with running(settings(), segmenter) as port:
        page.route("**/vendor/niivue.js", lambda route: route.fulfill(status=404))
        page.goto(f"http://127.0.0.1:{port}/")
        page.get_by_role("alert").filter(has_text="pip install -e .").wait_for()


def test_what_cannot_be_opened_is_said(viewer: Viewer, tmp_path: Path) -> None:
    (tmp_path / "x.nii.gz").write_bytes(b"no image")
    viewer.page.goto(f"http://127.0.0.1:{viewer.port}/")
    viewer.page.locator("#scans button").first.wait_for()
    viewer.page.set_input_files("#file", tmp_path / "x.nii.gz")
    viewer.page.get_by_role("alert").filter(has_text="not a readable NIfTI").first.wait_for()
    viewer.page.locator("#start").wait_for()
    assert viewer.page.evaluate("() => location.hash") == ""
    viewer.page.goto(f"http://127.0.0.1:{viewer.port}/#{'0' * 32}")
    viewer.page.get_by_role("alert").filter(has_text="no such session").first.wait_for()
    viewer.errors.clear()  # the browser counts refused requests among errors


def test_a_series_labels_are_saved_as_seg(
    page: Any,
    settings: Callable[..., Settings],
    segmenter: Segmenter,
    tmp_path: Path,
    write_series: Callable[..., None],
    bordered: Volume,
) -> None:
    pytest.importorskip("highdicom", reason="highdicom (the extra dicom) is not installed")
    from s2vnet.io.dicom.seg import read_segmentation

    folder = tmp_path / "data"
    (folder / "series").mkdir(parents=True)
    write_series(folder / "series", bordered.data[0].astype(np.int16))
    write_image(folder / "one.nii.gz", bordered)
    with running(settings(data=folder), segmenter) as port:
        viewer = Viewer(page, port).open("series")
        formats = page.locator("#format option")
        assert formats.all_inner_texts() == [
            "nii.gz",
            "nrrd",
            "mha",
            "dcm (SEG)",
            "dcm (labelmap SEG)",
            "dcm (RTSTRUCT)",
        ]
        viewer.click((6, 9, 5))
        saved = {}
        for chosen in ("dcm", "rtstruct"):
            page.get_by_label("file format").select_option(chosen)
            with page.expect_download() as download:
                page.get_by_role("button", name="Save labels").click()
            download.value.save_as(tmp_path / chosen)
            saved[chosen] = download.value.suggested_filename
        assert saved == {"dcm": "series-labels.dcm", "rtstruct": "series-labels.rtstruct.dcm"}
        labels, names = read_segmentation(tmp_path / "dcm", folder / "series")
        np.testing.assert_array_equal(labels.data, viewer.labels())
        assert names == {k: name for k, name in segmenter.class_names.items() if k}
        viewer.open("one.nii.gz")
        assert formats.all_inner_texts() == ["nii.gz", "nrrd", "mha"]
        assert viewer.errors == []


def test_each_scan_is_shown_with_its_models_classes(
    page: Any,
    settings: Callable[..., Settings],
    save: Callable[..., Path],
    make_plan: Callable[..., Plan],
    bordered: Volume,
    tmp_path: Path,
) -> None:
    window = IntensityScheme(kind="ct", low=-1000, high=1000, mean=0, std=500)
    plan = make_plan(intensities=(window,), labels={"background": 0, "lung": 1}).model_copy(
        update={"channels": ("CT",)}
    )
    (tmp_path / "data").mkdir()
    write_image(tmp_path / "data" / "mr.nii.gz", bordered)
    write_image(tmp_path / "data" / "ct.nii.gz", Volume(bordered.data - 1024, bordered.geometry))
    ct, mr = save(plan), save(make_plan().model_copy(update={"channels": ("MR",)}))
    with running(settings(data=tmp_path / "data", models=(str(ct), str(mr)), runtime="torch"), None) as port:
        for scan, model, classes in (("ct", ct.name, ["lung"]), ("mr", mr.name, ["left part", "right"])):
            viewer = Viewer(page, port).open(f"{scan}.nii.gz")
            assert page.locator("#model-choice").input_value() == model
            assert page.locator("#classes .name").all_inner_texts()[1:] == classes
            assert viewer.labels().max() <= len(classes)
        page.locator("#model-choice").select_option(ct.name)
        page.get_by_text("no CT in HU, which the model is for").first.wait_for()
        assert viewer.errors == []
