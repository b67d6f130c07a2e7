"""What a notebook shows of a session is what the session holds, before and after clicks."""

from __future__ import annotations

import base64
import gzip
import io
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib.image
import nibabel as nib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from random_models import ORIENTATIONS, reoriented

from s2vnet.errors import InputError
from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.io.geometry import LabelMap, Volume
from s2vnet.prompts import Point
from s2vnet.visualization.overlays import figure_to_png, orthogonal_planes
from s2vnet.visualization.palettes import hex_palette

NAMES = {0: "background", 1: "left part", 2: "right"}
CHROMIUM = shutil.which("chromium")
PATIENCE_S = 60
GRAPHICS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
PAGE = """<!doctype html><div id="at" style="width:600px"></div><script type="module">
import widget from "./widget.js";
const bytes = (key, value) => value?.base64 === undefined ? value
  : new DataView(Uint8Array.from(atob(value.base64), (c) => c.charCodeAt(0)).buffer);
const models = {};
class Model {
  handlers = {};
  widget_manager = { get_model: async (id) => models[id] };
  constructor(id, state) { this.id = id; this.state = JSON.parse(state, bytes); models[id] = this; }
  get(name) { return this.state[name]; }
  set(name, value) { this.state[name] = value; }
  save_changes() {}
  on(event, handler) { (this.handlers[event] ??= []).push(handler); }
  off() {}
  send(content) { said(JSON.stringify(content)); }
}
window.add = (id, state) => { new Model(id, state); };
window.show = async (id) => {
  await widget.initialize({ model: models[id] });
  await widget.render({ model: models[id], el: document.getElementById("at") });
};
window.change = (id, name, value) => Promise.all(
  (models[id].set(name, value), models[id].handlers["change:" + name].map((handler) => handler())));
window.ready = true;
</script>"""


@pytest.fixture(scope="module")
def segmenter(model_folder: Path) -> Segmenter:
    """The default random model only, not its variants."""
    return Segmenter.from_pretrained(model_folder, device="cpu")


@pytest.fixture
def session(segmenter: Segmenter, bordered: Volume) -> Session:
    """On a grid whose axes are neither in RAS order nor direction."""
    return Session(segmenter, reoriented(bordered, *ORIENTATIONS["permuted and flipped"]))


def send(widget: Any, event: str, **data: Any) -> None:
    """What the browser's half of a widget says, by the way that the kernel takes it."""
    content = {"method": "custom", "content": {"event": event, "data": data}}
    widget._handle_msg({"content": {"data": content}, "buffers": []})


def click(view: Any, voxel: tuple[int, int, int], place: Any = (0.5, 0.5, 0.5), dragging: bool = False) -> None:
    world = view.session.geometry.to_world([voxel])[0]
    send(view.viewer, "location_change", mm=[*world.tolist(), 1.0])
    send(view.viewer, "mouse_up", is_dragging=dragging, frac_pos=place)


def held(layer: Any) -> tuple[Any, Any]:
    """Voxels and affine that a widget's layer carries."""
    image = nib.Nifti1Image.from_bytes(gzip.decompress(layer.data))
    return np.asarray(image.dataobj), image.affine


def colour_at(figure: Figure, picture: Any, panel: int, column: int, row: int) -> Any:
    """Of the pixel of a decoded PNG in the middle of a panel's cell."""
    x, y = figure.axes[panel].transData.transform((column, row))
    return picture[picture.shape[0] - 1 - int(y), int(x), :3]


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_planes_show_each_class_where_it_is(phantom: tuple[Volume, LabelMap], name: str) -> None:
    volume = reoriented(phantom[0], *ORIENTATIONS[name])
    labels = reoriented(Volume(phantom[1].data[None].astype(np.float32), phantom[0].geometry), *ORIENTATIONS[name])
    shown = LabelMap(labels.data[0].astype(np.uint8), volume.geometry)
    orientation = volume.geometry.orientation
    i, j, k = orientation.invert_points([[4, 8, 4]])[0].astype(int).tolist()  # in the middle of class 1
    figure = orthogonal_planes(volume, shown, NAMES, (i, j, k))
    picture = matplotlib.image.imread(io.BytesIO(figure_to_png(figure)))
    canonical = phantom[1].data
    found = set()
    for panel, plane in enumerate((canonical[4], canonical[:, 8], canonical[:, :, 4])):
        for (right, up), class_id in np.ndenumerate(plane):
            seen = colour_at(figure, picture, panel, plane.shape[0] - 1 - right, plane.shape[1] - 1 - up)
            beside = plane[max(right - 1, 0) : right + 2, up], plane[right, max(up - 1, 0) : up + 2]
            if class_id == 0:
                assert np.ptp(seen) == 0  # grey
            elif all((part == class_id).all() for part in beside):
                assert np.ptp(seen) > 0.1
            else:
                np.testing.assert_allclose(seen, to_rgb(hex_palette(3)[class_id]), atol=1 / 255)
                found.add((panel, int(class_id)))
    assert found == {(0, 1), (1, 1), (1, 2), (2, 1), (2, 2)}
    titles = [axes.get_title() for axes in figure.axes]
    letters = ["ijk"[orientation.axes[n]] for n in range(3)]
    assert [title.split("(")[1][0] for title in titles] == letters


def test_a_click_lies_on_the_planes_that_hold_it(phantom: tuple[Volume, LabelMap]) -> None:
    volume, labels = phantom
    clicks = [Point(class_id=2, voxel=(4, 8, 5), positive=False)]
    plain, clicked = (orthogonal_planes(volume, labels, NAMES, (4, 8, 4), given) for given in ((), clicks))
    marks = [len(b.lines) - len(a.lines) for a, b in zip(plain.axes, clicked.axes, strict=True)]
    assert marks == [2, 2, 0]


def test_the_picture_goes_through_the_newest_prompt_or_where_it_is_unsure(session: Session) -> None:
    axis, index = session.next_slice_to_check() or (0, -1)
    assert session.voxel_to_check()[axis] == index
    expected = figure_to_png(
        orthogonal_planes(session.volume, session.result, session.segmenter.class_names, session.voxel_to_check())
    )
    assert session._repr_png_() == expected
    session.add_point(1, (6, 7, 8))
    session.lock(2)
    assert session.voxel_to_check() == (6, 7, 8)
    assert session._repr_png_() != expected
    session.add_box(2, (2, 4, 6), (7, 9, 9))
    assert session.voxel_to_check() == (4, 6, 7)


def test_the_unsure_voxel_is_the_most_unsure_of_its_slice(segmenter: Segmenter, bordered: Volume) -> None:
    session = Session(segmenter, bordered)
    axis, index = session.next_slice_to_check() or (0, -1)
    doubt = np.moveaxis(segmenter.segment(bordered).uncertainty().data[0], axis, 0)[index]
    place = [n for a, n in enumerate(session.voxel_to_check()) if a != axis]
    assert doubt[tuple(place)] > np.quantile(doubt[doubt > 0], 0.95)  # on the file's finer grid it is interpolated


def test_python_shows_text_and_picture(session: Session) -> None:
    shell = pytest.importorskip("IPython.core.formatters", reason="IPython is not installed: pip install ipyniivue")
    shown, _ = shell.DisplayFormatter().format(session)
    assert shown["image/png"].startswith(b"\x89PNG")
    assert shown["text/plain"] == "<Session over 20 x 13 x 18 voxels, 2 classes, 0 prompts>"
    session.volume = None
    shown, _ = shell.DisplayFormatter().format(session)
    assert set(shown) == {"text/plain"}
    with pytest.raises(InputError, match="has freed its image"):
        session.view()


def test_without_the_extra_one_line_says_how(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipyniivue", None)
    monkeypatch.delitem(sys.modules, "s2vnet.interactive.notebook", raising=False)
    with pytest.raises(InputError, match='pip install "ipyniivue'):
        session.view()
    assert session._repr_png_() is not None


@pytest.fixture
def view(session: Session) -> Any:
    pytest.importorskip("ipyniivue", reason="ipyniivue is not installed: pip install ipyniivue")
    return session.view()


def test_the_widget_carries_the_image_and_the_labels_on_their_grid(view: Any) -> None:
    session = view.session
    image, labels = view.viewer.volumes
    for layer, data in ((image, session.volume.data[0]), (labels, session.labels)):
        voxels, affine = held(layer)
        np.testing.assert_array_equal(voxels, data)
        np.testing.assert_allclose(affine, session.geometry.affine, atol=1e-5)
    assert labels.colormap_label.labels == list(session.segmenter.class_names.values())
    colours = np.reshape(labels.colormap_label.lut, (-1, 4))
    np.testing.assert_allclose(colours[1:, :3] / 255, [to_rgb(colour) for colour in hex_palette(3)[1:]])
    assert colours[:, 3].tolist() == [0, 255, 255]
    assert view._repr_mimebundle_()["application/vnd.jupyter.widget-view+json"]["model_id"]


def test_integers_go_in_half_the_bytes_and_unchanged(segmenter: Segmenter, bordered: Volume) -> None:
    pytest.importorskip("ipyniivue", reason="ipyniivue is not installed: pip install ipyniivue")
    for data, dtype in ((np.rint(bordered.data), np.int16), (np.rint(bordered.data) * 1000, np.float32)):
        voxels, _ = held(Session(segmenter, Volume(data, bordered.geometry)).view().viewer.volumes[0])
        assert voxels.dtype == dtype
        np.testing.assert_array_equal(voxels, data[0])


def test_the_widget_follows_the_session(view: Any) -> None:
    session, viewer = view.session, view.viewer
    image, before = viewer.volumes
    session.add_mask(1, np.indices(session.labels.shape).sum(0) < 20)
    assert viewer.volumes[0] is image  # the image is sent once
    after = held(viewer.volumes[1])[0]
    np.testing.assert_array_equal(after, session.labels)
    assert not np.array_equal(after, held(before)[0])
    view.undo.click()
    assert session.log == ()
    np.testing.assert_array_equal(held(viewer.volumes[1])[0], held(before)[0])
    view.redo.click()
    np.testing.assert_array_equal(held(viewer.volumes[1])[0], after)
    shown = viewer.volumes
    view.close()
    session.reset()
    assert viewer.volumes == shown
    assert session.listeners == []


def test_a_click_says_what_is_chosen(view: Any) -> None:
    session = view.session
    click(view, (6, 7, 8))
    assert session.log == ()  # at first clicks only look
    view.class_choice.value = 2
    click(view, (6, 7, 8), dragging=True)  # the right button, for contrast
    click(view, (6, 7, 8), place=[-1, -1, -1])  # between the orthogonal_planes
    assert session.log == ()
    click(view, (6, 7, 8), place={"0": 0.4, "1": 0.5, "2": 0.6})  # a Float32Array in JSON
    view.negative.value = True
    click(view, (5, 9, 12))
    assert session.log == (
        Point(class_id=2, voxel=(6, 7, 8)),
        Point(class_id=2, voxel=(5, 9, 12), positive=False),
    )
    assert held(view.viewer.volumes[1])[0][6, 7, 8] == 2
    click(view, (6, 7, 99))
    assert len(session.log) == 2
    assert "outside the volume" in view.message.value


def told(widget: Any) -> str:
    """A widget's state as the browser gets it, its bytes in base64."""
    return json.dumps(widget.get_state(), default=lambda part: {"base64": base64.b64encode(bytes(part)).decode()})


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")
def test_in_a_browser_a_click_names_the_voxel_under_the_mouse(view: Any) -> None:
    reason = "playwright is not installed: pip install playwright"
    sync_api = pytest.importorskip("playwright.sync_api", reason=reason)
    session, viewer = view.session, view.viewer
    said: list[dict[str, Any]] = []
    served = {"/": ("text/html", PAGE), "/widget.js": ("text/javascript", str(viewer._esm))}

    def answer(route: Any) -> None:
        kind, body = served.get("/" + route.request.url.split("/", 3)[3], ("text/plain", ""))
        route.fulfill(body=body, content_type=kind)

    def show_labels(page: Any) -> None:
        for layer in viewer.volumes:
            page.evaluate("([id, state]) => add(id, state)", [layer.model_id, told(layer)])

    def values(page: Any, x: float, y: float, button: str = "left") -> list[float]:
        """Image and label that NiiVue tells of the place clicked, after Python heard of it."""
        said.clear()
        page.mouse.click(x, y, button=button)
        end = time.monotonic() + PATIENCE_S
        while not any(content["event"] == "mouse_up" for content in said):
            assert time.monotonic() < end
            page.wait_for_timeout(20)
        for content in list(said):
            send(viewer, content["event"], **content.get("data", {}))
        places = [content["data"] for content in said if content["event"] == "location_change"]
        return [value["value"] for value in places[-1]["values"]] if places else []

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=GRAPHICS)
        page = browser.new_page()
        page.route("http://notebook/**", answer)
        page.expose_function("said", lambda content: said.append(json.loads(content)))
        page.goto("http://notebook/")
        page.wait_for_function("window.ready")
        show_labels(page)
        page.evaluate("([id, state]) => { add(id, state); return show(id); }", [viewer.model_id, told(viewer)])
        view.class_choice.value = 1
        box = page.locator("canvas").bounding_box()
        for across, down in ((0.2, 0.3), (0.3, 0.6), (0.7, 0.4)):
            before, count = session.labels, len(session.log)
            x, y = box["x"] + across * box["width"], box["y"] + down * box["height"]
            found = values(page, x, y)
            assert len(session.log) == count + 1
            voxel = session.log[-1].voxel
            assert found == pytest.approx([session.volume.data[0][voxel], before[voxel]])
            show_labels(page)
            page.evaluate("([id, now]) => change(id, 'volumes', now)", [viewer.model_id, viewer.get_state()["volumes"]])
        count = len(session.log)
        for button in ("right", "middle"):
            values(page, x, y, button)
        assert len(session.log) == count
        browser.close()
