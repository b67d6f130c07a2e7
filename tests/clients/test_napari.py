"""napari with a window that nobody sees: s2vnet's own panel, and nnInteractive's panel connected to a server."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.io.files import read_geometry, read_labels
from s2vnet.io.geometry import Geometry, Volume
from s2vnet.prompts import Box, Point, Scribble

Serve = Callable[..., str]
Own = Callable[[str], Session]
SCAN = "a/image.nii.gz"
PATIENCE_S = 60.0
pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # napari's and Qt's own
    pytest.mark.skipif(
        importlib.util.find_spec("napari_nninteractive") is None, reason="`make clients` installs napari"
    ),
]


@pytest.fixture
def viewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """napari with its window, which is never shown; settings are those of a new user."""
    monkeypatch.setenv("QT_QPA_PLATFORM", os.environ.get("QT_QPA_PLATFORM", "offscreen"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("NAPARI_CONFIG", str(tmp_path / "napari.yaml"))
    import napari
    from vispy.gloo import gl
    from vispy.gloo.gl import _pyopengl2

    # Qt's platform `offscreen` has no OpenGL; nothing is drawn, but napari asks what could be
    for functions in (_pyopengl2, gl):
        monkeypatch.setattr(
            functions, "glGetParameter", lambda name: "texture_float" if name == gl.GL_EXTENSIONS else 2048
        )
    viewer = napari.Viewer(show=False)
    yield viewer
    viewer.close()


@pytest.fixture
def messages(viewer: Any) -> Iterator[list[str]]:
    """What napari tells the user."""
    from napari.utils.notifications import notification_manager

    told: list[str] = []

    def keep(shown: Any) -> None:
        if "non-orthogonal" not in shown.message:  # the grid is oblique
            told.append(shown.message)

    note = notification_manager.notification_ready.connect(keep)
    with notification_manager:  # exceptions in Qt's callbacks become messages, as in napari itself
        yield told
    notification_manager.notification_ready.disconnect(note)


def process_events(until: Callable[[], bool]) -> None:
    """Let Qt work until something has happened."""
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + PATIENCE_S
    while not until():
        assert time.monotonic() < end
        QApplication.processEvents()
        time.sleep(0.01)


def test_own_panel_opens_clicks_undoes_and_saves(
    viewer: Any, messages: list[str], scans: Path, model_folder: Path, own: Own, tmp_path: Path
) -> None:
    viewer.open(str(scans / SCAN), plugin="s2vnet")
    _, panel = viewer.window.add_plugin_dock_widget("s2vnet", "Segment and click")
    model, start, class_choice, negative, undo, redo = panel
    model.value = str(model_folder)
    start.native.click()
    assert messages == []
    expected = own(SCAN)
    labels, points = viewer.layers["labels"], viewer.layers["clicks"]
    np.testing.assert_array_equal(labels.data, expected.labels)
    class_choice.value = 2
    points.add((6.4, 6.6, 8.0))
    expected.add(Point(class_id=2, voxel=(6, 7, 8)))
    np.testing.assert_array_equal(labels.data, expected.labels)
    negative.native.click()
    points.add((5, 9, 7))
    expected.add(Point(class_id=2, voxel=(5, 9, 7), positive=False))
    np.testing.assert_array_equal(labels.data, expected.labels)
    undo.native.click()
    expected.undo()
    np.testing.assert_array_equal(labels.data, expected.labels)
    assert len(points.data) == 1
    redo.native.click()
    expected.redo()
    np.testing.assert_array_equal(labels.data, expected.labels)
    for name in ("labels.nii.gz", "labels.nrrd", "labels.mha"):
        (saved,) = labels.save(str(tmp_path / name), plugin="s2vnet")
        written = read_labels(Path(saved))
        np.testing.assert_array_equal(written.data, expected.labels)
        read_geometry(scans / SCAN).require_same_grid(written.geometry, "the saved labels")


class Panel:
    """nnInteractive's panel, used as by hand."""

    def __init__(self, viewer: Any, address: str, told: list[str]) -> None:
        """Connect to a server and send the image, as the button `Initialize` does; `told` is what the user reads."""
        self.layers = viewer.layers
        _, self.panel = viewer.window.add_plugin_dock_widget("napari-nninteractive", None)
        self.panel.server_url_edit.setText(address)
        self.panel.init_button.click()
        process_events(lambda: self.panel.point_layer_name in viewer.layers or bool(told))
        assert not told

    @property
    def mask(self) -> Any:
        """The object as the panel shows it."""
        return self.layers[self.panel.label_layer_name].data > 0

    def choose(self, tool: int, inside: bool = True) -> Any:
        """Choose a tool (0 point, 1 box, 2 scribble, 3 lasso) and a sign; return the tool's layer."""
        self.panel.prompt_button.buttons[0 if inside else 1].click()
        if self.panel.interaction_button.index != tool:
            self.panel.interaction_button.buttons[tool].click()
        return self.layers[self.panel.layer_dict[tool]]


@pytest.mark.parametrize(
    ("reader", "axes", "label"), [("s2vnet", "RAS", "right"), ("s2vnet", "RAS", "any"), ("napari-nifti", "SAR", "any")]
)
def test_nninteractives_panel_connects_interacts_and_saves(
    viewer: Any,
    messages: list[str],
    serve: Serve,
    scans: Path,
    segmenter: Segmenter,
    reader: str,
    axes: str,
    label: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from qtpy.QtWidgets import QFileDialog

    viewer.open(str(scans / SCAN), plugin=reader)
    image = viewer.layers[0]
    panel = Panel(viewer, f"{serve()}/nninteractive/{label}/{axes}", messages)
    grid = Geometry.from_codes(image.data.shape, np.abs(panel.panel.session_cfg["spacing"]), axes)
    expected = Session(segmenter, Volume(np.asarray(image.data, np.float32)[None], grid))
    thing = 2 if label == "right" else expected.add_class("object")
    inside, outside = (tuple(map(int, np.argwhere(expected.labels == k)[3])) for k in (2, 1))

    def check(interactions: int) -> None:
        assert messages == []
        assert len(panel.panel._interaction_history) == interactions
        np.testing.assert_array_equal(panel.mask, expected.labels == thing)

    panel.choose(0).add(inside)
    expected.add_point(thing, inside)
    check(1)
    panel.choose(0, inside=False).add(outside)
    expected.add_point(thing, outside, positive=False)
    check(2)
    panel.panel.undo_button.click()
    expected.undo()
    check(1)
    i, j, k = inside
    viewer.dims.set_point(0, image.data_to_world(inside)[0])  # the slice that is shown
    scribbles = panel.choose(2)
    with scribbles.block_history():
        scribbles.paint((i, j, k), 1)
    drawn = tuple(map(tuple, np.argwhere(scribbles.data > 0).tolist()))
    assert drawn
    expected.add(Scribble(class_id=thing, voxels=drawn))
    check(2)
    panel.choose(1).add(np.array([(i, 3, 4), (i, 3, 12), (i, 12, 12), (i, 12, 4)], float), shape_type="rectangle")
    expected.add(Box(class_id=thing, start=(i, 3, 4), stop=(i + 1, 12, 12)))
    check(3)
    lasso = panel.choose(3, inside=False)
    lasso.add(np.array([(i, 2, 2), (i, 2, 6), (i, 6, 6), (i, 6, 2)], float), shape_type="polygon")
    assert len(panel.panel._interaction_history) == 4
    panel.panel.undo_button.click()
    check(3)
    panel.panel.reset_interaction_button.click()
    assert not panel.mask.any()
    panel.panel.auto_run_ckbx.click()  # prompts are computed when the user says so
    panel.choose(0).add(inside)
    assert not panel.mask.any()
    panel.panel.run_button.click()
    expected.reset()
    if label == "any":
        assert expected.add_class("object") == thing
    expected.add_point(thing, inside)
    np.testing.assert_array_equal(panel.mask, expected.labels == thing)
    panel.panel.reset_button.click()  # the next object
    assert not panel.mask.any()
    given = np.zeros(image.data.shape, np.uint8)
    given[4:9, 5:10, 3:6] = 1
    viewer.add_labels(given, name="given")
    panel.panel.label_for_init.setCurrentText("given")
    panel.panel.on_load_mask()
    np.testing.assert_array_equal(panel.mask, given > 0)
    assert messages == []
    objects = [expected.labels == thing, given > 0]
    if reader == "s2vnet":
        panel.panel.reset_button.click()
        names = [f"object {n} - {image.name}" for n in (1, 2)]
        saved = [viewer.layers[name].save(str(tmp_path / f"{name}.nii.gz"), plugin="s2vnet")[0] for name in names]
    else:
        monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_, **__: str(tmp_path))
        panel.panel.export_button.click()
        saved = sorted(map(str, tmp_path.glob("*_nnInteractive/*.nii.gz")))
        objects = [mask.transpose(2, 1, 0) for mask in objects]
    for path, mask in zip(saved, objects, strict=True):
        written = read_labels(Path(path))
        np.testing.assert_array_equal(written.data > 0, mask)
        read_geometry(scans / SCAN).require_same_grid(written.geometry, "the saved object")
