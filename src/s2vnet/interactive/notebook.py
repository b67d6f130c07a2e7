"""Widget for Jupyter notebooks that shows a session, with ipyniivue (https://niivue.github.io/ipyniivue).

The first channel is sent to the browser once, gzipped, and NiiVue sends it back unpacked; labels are sent after each
change. Only :meth:`s2vnet.interactive.session.Session.view` imports this module, since ipyniivue is an extra.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from ipyniivue import NiiVue, ShowRender
from ipyniivue import Volume as Layer
from ipywidgets import HTML, Button, Checkbox, Dropdown, HBox, VBox

from s2vnet.errors import InputError
from s2vnet.io import nifti
from s2vnet.prompts import Voxel
from s2vnet.visualization.palettes import OPACITY, hex_palette
from s2vnet.visualization.windows import default_window

if TYPE_CHECKING:
    from s2vnet.interactive.session import Session

LOOK = -1
"""Value of the class choice for which clicks only move the crosshair."""


class View:
    """Image and labels of a session with a choice of class; a click assigns its voxel to the class, or denies it."""

    def __init__(self, session: Session, height: int = 400) -> None:
        """Show a session and follow its changes.

        Raises:
            InputError: the session's volume is None.
        """
        if session.volume is None:
            raise InputError("this session has freed its image; start a new one with Session(segmenter, volume)")
        self.session = session
        self.viewer = NiiVue(
            height=height,
            is_radiological_convention=True,
            multiplanar_show_render=ShowRender.NEVER,
            sagittal_nose_left=True,
            show_all_orientation_markers=True,
        )
        """The ipyniivue widget; its volumes are the image and the labels, on the file's grid."""
        names = session.class_names
        self.class_choice = Dropdown(options=[("look only", LOOK), *((name, k) for k, name in names.items())])
        self.negative = Checkbox(description="is not", indent=False)
        self.undo, self.redo = Button(description="undo"), Button(description="redo")
        self.message = HTML()
        image = nifti.to_bytes(_compact(session.volume.data[:1]), session.geometry)
        low, high = default_window(session.volume.data[0], session.segmenter.plan.channels[0])
        self._image = Layer(
            data=image, name="image.nii.gz", colormap="gray", cal_min=low, cal_max=high, colorbar_visible=False
        )
        self._voxel: Voxel | None = None
        self.refresh()
        self._show_message(f"{len(image) / 1e6:.3g} MB of image sent")
        session.listeners.append(self.refresh)
        self.viewer.on_location_change(self._moved)
        self.viewer.on_mouse_up(self._clicked)
        self.undo.on_click(lambda _: session.undo())
        self.redo.on_click(lambda _: session.redo())
        row = HBox([self.class_choice, self.negative, self.undo, self.redo])
        self._box = VBox([self.viewer, row, self.message])

    def refresh(self) -> None:
        """Send the session's labels; called after every change."""
        session, before = self.session, self.viewer.volumes[1:]
        data = nifti.to_bytes(session.labels[None], session.geometry)
        labels = Layer(data=data, name="labels.nii.gz", opacity=OPACITY, colorbar_visible=False)
        labels.set_colormap_label(_colormap(session.class_names))
        self.viewer.volumes = [self._image, labels]
        for old in before:
            old.close()
        self._show_message(f"{len(session.log)} prompts")

    def close(self) -> None:
        """Stop following the session, and free the widget's memory here and in the browser."""
        self.session.listeners.remove(self.refresh)
        for widget in (*self.viewer.volumes, *self._box.children[1].children, *self._box.children, self._box):
            widget.close()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """MIME bundle of the widget, for notebooks."""
        return self._box._repr_mimebundle_(**options)

    def _moved(self, location: dict[str, Any]) -> None:
        """Store the crosshair's voxel, from its position in mm: NiiVue's voxel indices follow RAS axes."""
        i, j, k = np.rint(self.session.geometry.to_voxel([location["mm"][:3]])[0]).astype(int).tolist()
        self._voxel = i, j, k

    def _clicked(self, mouse: dict[str, Any]) -> None:
        """Add a click at the crosshair, if a class is chosen and the mouse was released in a plane without dragging."""
        class_id: int = self.class_choice.value
        position = mouse["frac_pos"]  # a typed array becomes an object in JSON
        outside = min(position.values() if isinstance(position, dict) else position) < 0
        if class_id == LOOK or self._voxel is None or outside or mouse["is_dragging"]:
            return
        try:
            self.session.add_point(class_id, self._voxel, not self.negative.value)
        except InputError as error:
            self._show_message(str(error))

    def _show_message(self, text: str) -> None:
        self.message.value = html.escape(text)


def _compact(data: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    """Convert values to int16 if this loses nothing; else return them as they are."""
    with np.errstate(invalid="ignore"):
        integers = data.astype(np.int16)
    return integers if np.array_equal(integers, data) else data


def _colormap(class_names: dict[int, str]) -> dict[str, Any]:
    """NiiVue's table of label colours; background is transparent."""
    palette = hex_palette(max(class_names) + 1)
    colours = [bytes.fromhex(palette[k][1:]) for k in class_names]
    red, green, blue = (list(part) for part in zip(*colours, strict=True))
    alpha = [255 if k else 0 for k in class_names]
    return {"R": red, "G": green, "B": blue, "A": alpha, "I": list(class_names), "labels": list(class_names.values())}
