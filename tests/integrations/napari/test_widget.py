"""The panel in napari: layers lie where the scan does, points are clicks, and labels are the session's."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_models import ORIENTATIONS, reoriented

from s2vnet.errors import InputError
from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.io.files import read_image, write_image
from s2vnet.io.geometry import Volume
from s2vnet.prompts import Point

pytestmark = pytest.mark.filterwarnings("ignore")  # napari's own
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip(
        "napari", reason="napari is not installed: pip install napari, then PYTEST_DISABLE_PLUGIN_AUTOLOAD=1"
    )
    from s2vnet.integrations.napari.reader import read
    from s2vnet.integrations.napari.widget import LayerSession, segment


@pytest.fixture
def viewer() -> Any:
    """napari's viewer but for its window."""
    from napari.components import ViewerModel

    return ViewerModel()


@pytest.fixture
def errors() -> Iterator[list[str]]:
    """What napari tells the user of."""
    from napari.utils.notifications import notification_manager

    told: list[str] = []
    note = notification_manager.notification_ready.connect(lambda shown: told.append(shown.message))
    yield told
    notification_manager.notification_ready.disconnect(note)


@pytest.fixture
def scan(bordered: Volume, tmp_path: Path) -> Path:
    """On a grid whose axes are neither in RAS order nor direction."""
    write_image(tmp_path / "scan.mha", reoriented(bordered, *ORIENTATIONS["permuted and flipped"]))
    return tmp_path / "scan.mha"


@pytest.fixture
def work(viewer: Any, scan: Path, segmenter: Segmenter) -> LayerSession:
    for data, given, _ in read(str(scan)):
        viewer.add_image(data, **given)
    return LayerSession(viewer, segmenter)


def test_layers_lie_where_the_scan_does(work: LayerSession, viewer: Any, scan: Path) -> None:
    volume = read_image(scan)
    voxels = [(0, 0, 0), (3, 5, 7), (19, 12, 17)]
    assert [type(layer).__name__ for layer in viewer.layers] == ["Image", "Labels", "Points"]
    np.testing.assert_array_equal(viewer.layers[0].data, volume.data[0])
    for layer in viewer.layers:
        world = [layer.data_to_world(voxel) for voxel in voxels]
        np.testing.assert_allclose(world, volume.geometry.to_world(voxels), atol=1e-4)


def test_points_are_clicks_and_labels_follow(work: LayerSession, scan: Path, segmenter: Segmenter) -> None:
    expected = Session(segmenter, read_image(scan))
    np.testing.assert_array_equal(work.labels.data, expected.labels)
    work.class_id = 2
    work.points.add((6.4, 6.6, 8.0))
    work.positive = False
    work.points.add((5, 9, 12))
    expected.add(Point(class_id=2, voxel=(6, 7, 8)))
    expected.add(Point(class_id=2, voxel=(5, 9, 12), positive=False))
    assert work.session.log == expected.log
    np.testing.assert_array_equal(work.labels.data, expected.labels)
    np.testing.assert_array_equal(work.points.data, [(6, 7, 8), (5, 9, 12)])
    work.labels.data[:] = 1  # painted over: the session's labels are not the layer's
    work.points.remove([0])
    expected.remove(0)
    assert work.session.log == expected.log
    np.testing.assert_array_equal(work.labels.data, expected.labels)
    work.session.undo()
    assert len(work.points.data) == 2
    work.session.reset()
    assert len(work.points.data) == 0


def test_a_point_outside_is_told_and_taken_back(work: LayerSession, errors: list[str]) -> None:
    work.points.add((6, 7, 8))
    work.points.add((6, 7, 99))
    assert len(work.session.log) == len(work.points.data) == 1
    assert "outside the volume" in errors[-1]


def test_an_image_of_unknown_orientation_is_refused(viewer: Any, segmenter: Segmenter, bordered: Volume) -> None:
    viewer.add_image(bordered.data[0])
    with pytest.raises(InputError, match="orientation of other layers"):
        LayerSession(viewer, segmenter)


def test_the_panel(viewer: Any, scan: Path, model_folder: Path, errors: list[str]) -> None:
    pytest.importorskip("ipywidgets", reason="magicgui has nothing to draw with: pip install ipywidgets")
    from magicgui.application import use_app

    use_app("ipynb")
    model, start, class_choice, negative, undo, redo = segment(viewer)
    model.value = str(model_folder)
    start.changed.emit(True)
    assert "orientation of other layers" in errors[-1]
    (data, given, _), *_ = read(str(scan))
    viewer.add_image(data, **given)
    start.changed.emit(True)
    assert list(class_choice.choices) == [1, 2, 0]
    points = viewer.layers["clicks"]
    class_choice.value, negative.value = 2, True
    points.add((6, 7, 8))
    automatic = viewer.layers["labels"].data.copy()
    negative.value = False
    points.add((6, 7, 8))
    assert viewer.layers["labels"].data[6, 7, 8] == 2
    undo.changed.emit(True)
    np.testing.assert_array_equal(viewer.layers["labels"].data, automatic)
    assert len(points.data) == 1
    redo.changed.emit(True)
    assert len(points.data) == 2
