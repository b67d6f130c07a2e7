"""Panel for napari: segment the selected layers, then correct the labels by clicks in a points layer.

napari is blocked while the network computes. Qt is required only when napari shows the panel.
"""

from __future__ import annotations

from typing import Any

import napari
import numpy as np
from magicgui.widgets import CheckBox, ComboBox, Container, LineEdit, PushButton
from napari.layers import Image
from napari.utils import DirectLabelColormap, progress
from napari.utils.notifications import show_error

from s2vnet.errors import InputError, S2VNetError
from s2vnet.inference.segmenter import Segmenter
from s2vnet.integrations.napari.reader import GEOMETRY
from s2vnet.interactive.session import Session
from s2vnet.io.geometry import Volume
from s2vnet.prompts import Point
from s2vnet.visualization.palettes import hex_palette

POINT_SIZE = 2
"""Voxels."""


class LayerSession:
    """Session on the selected image layers, with a labels layer and a points layer of its clicks."""

    def __init__(self, viewer: Any, segmenter: Segmenter) -> None:
        """Segment the selected layers, one per channel from the lowest on.

        Raises:
            InputError: no layer of the s2vnet reader is selected, or the layers do not fit each other or the model.
        """
        self.class_id, self.positive = 1, True
        """Class and sign of new points."""
        with progress(total=1) as bar:
            self.session = Session(segmenter, _selected(viewer), lambda done, total: _step(bar, done, total))
        self.session.volume = None  # held by the layers
        names = segmenter.class_names
        self._palette: dict[int | None, str] = dict(enumerate(hex_palette(max(names) + 1)))
        colours = {**self._palette, None: "transparent", 0: "transparent"}
        colormap, affine = DirectLabelColormap(color_dict=colours), self.session.geometry.affine
        options = {"affine": affine, "metadata": {GEOMETRY: self.session.geometry}}
        self.labels = viewer.add_labels(self.session.labels.copy(), name="labels", colormap=colormap, **options)
        self.points = viewer.add_points(ndim=3, name="clicks", size=POINT_SIZE, affine=affine)
        self.points.mode = "add"
        self._updating = False
        self.points.events.data.connect(lambda event: self._edited(event.action, event.data_indices))
        self.session.listeners.append(self.show)

    def show(self) -> None:
        """Show the session's labels and points; painted voxels and moved points are discarded."""
        clicks = [entry for entry in self.session.log if isinstance(entry, Point)]
        self._updating = True
        try:
            self.labels.data = self.session.labels.copy()
            self.points.data = np.array([click.voxel for click in clicks], float).reshape(-1, 3)
            if clicks:
                self.points.face_color = [self._palette[click.class_id] for click in clicks]
                self.points.symbol = ["disc" if click.positive else "x" for click in clicks]
        finally:
            self._updating = False

    def _edited(self, action: str, indices: tuple[int, ...]) -> None:
        """Apply points that the user has added or removed; reset moved points."""
        if self._updating or action not in ("added", "removed", "changed"):
            return
        try:
            if action == "added":
                voxels = np.rint(self.points.data[list(indices)]).astype(int).tolist()
                options = {"class_id": self.class_id, "positive": self.positive}
                self.session.add(*(Point(voxel=(i, j, k), **options) for i, j, k in voxels))
            elif action == "removed":
                clicks = [number for number, entry in enumerate(self.session.log) if isinstance(entry, Point)]
                for index in sorted(indices, reverse=True):
                    self.session.remove(clicks[index])
        except InputError as error:
            show_error(str(error))
        self.show()


def segment(viewer: Any = None) -> Container:
    """Create the panel for a viewer, by default napari's current one."""
    viewer = napari.current_viewer() if viewer is None else viewer
    model = LineEdit(label="model", value="abdomen-ct", tooltip="name or folder")
    class_choice = ComboBox(label="class", choices=[])
    negative = CheckBox(text="is not")
    start, undo, redo = (PushButton(text=text) for text in ("Segment selected layers", "Undo", "Redo"))
    opened: list[LayerSession] = []

    def choose() -> None:
        for layers in opened[-1:]:
            layers.class_id, layers.positive = class_choice.value, not negative.value

    def begin() -> None:
        try:
            layers = LayerSession(viewer, Segmenter.from_pretrained(model.value))
        except S2VNetError as error:
            show_error(str(error))
            return
        opened.append(layers)
        names = layers.session.class_names
        class_choice.choices = [(name, k) for k, name in names.items() if k] + [(names[0], 0)]
        choose()

    start.changed.connect(begin)
    undo.changed.connect(lambda: [layers.session.undo() for layers in opened[-1:]])
    redo.changed.connect(lambda: [layers.session.redo() for layers in opened[-1:]])
    class_choice.changed.connect(choose)
    negative.changed.connect(choose)
    return Container(widgets=[model, start, class_choice, negative, undo, redo])


def _selected(viewer: Any) -> Volume:
    layers = [layer for layer in viewer.layers if layer in viewer.layers.selection and isinstance(layer, Image)]
    grids = [layer.metadata[GEOMETRY] for layer in layers if GEOMETRY in layer.metadata]
    if not layers or len(grids) < len(layers):
        raise InputError("select images opened by the S2VNet reader; the orientation of other layers is unknown")
    for grid in grids:
        grids[0].require_same_grid(grid, "the selected layers")
    data = layers[0].data[None] if len(layers) == 1 else np.stack([layer.data for layer in layers])
    return Volume(np.asarray(data), grids[0])


def _step(bar: Any, done: int, total: int) -> None:
    bar.total, bar.n = total, done
    bar.refresh()
