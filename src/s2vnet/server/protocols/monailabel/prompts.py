"""Prompts of MONAI Label's requests: clicks by class, clicks of one object, and scribbles in a label map."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from s2vnet.errors import InputError
from s2vnet.io.geometry import LabelMap
from s2vnet.prompts import Entry, Point, Voxel
from s2vnet.server.protocols.drawings import drawing_prompt
from s2vnet.server.schemas import MAX_ENTRIES
from s2vnet.utils.validation_errors import first_error

Item = TypeVar("Item")
FOREGROUND, BACKGROUND = "foreground", "background"
_SCRIBBLES = {True: "foreground_scribbles", False: "background_scribbles"}
"""Names of the segments in which 3D Slicer collects scribbles, by whether they lie inside the object."""


def class_clicks(params: Mapping[str, Any], classes: Mapping[int, str]) -> tuple[Point, ...]:
    """Return the clicks of all classes: ``{"spleen": [[i, j, k], ...], ...}``. Other parameters are ignored.

    Raises:
        InputError: clicks of a class that the model does not know, invalid ones, or too many.
    """
    ids = {name: value for value, name in classes.items()}
    points: list[Point] = []
    for key, value in params.items():
        if key in ids:
            points += [Point(class_id=ids[key], voxel=voxel) for voxel in _voxels(key, value)]
        elif _looks_like_clicks(value):
            raise InputError(f"clicks of {key[:64]!r}, which is no class; the model knows {', '.join(ids)}")
    return _limited(points)


def object_clicks(params: Mapping[str, Any]) -> tuple[tuple[Voxel, ...], tuple[Voxel, ...]]:
    """Return the clicks inside and outside one object: ``{"foreground": [...], "background": [...]}``."""
    inside, outside = (_limited(_voxels(key, params.get(key) or ())) for key in (FOREGROUND, BACKGROUND))
    return inside, outside


def scribble_prompts(drawing: LabelMap, params: Mapping[str, Any], class_id: int) -> tuple[Entry, ...]:
    """Return the scribbles of 3D Slicer's label map as prompts of a class; its other segments are ignored.

    Args:
        drawing: segments numbered from 1 in the order of `label_info`.
        params: `label_info` with the segments' names.
        class_id: of the object.

    Raises:
        InputError: no scribbles.
    """
    label_info = params.get("label_info")
    names = (
        [entry.get("name") for entry in label_info if isinstance(entry, dict)] if isinstance(label_info, list) else []
    )
    entries: list[Entry] = []
    for positive, name in _SCRIBBLES.items():
        values = [value for value, each in enumerate(names, 1) if each == name]
        voxels: npt.NDArray[np.intp] = np.argwhere(np.isin(drawing.data, values))
        if len(voxels):
            entries.append(drawing_prompt(voxels, drawing.geometry.shape, class_id, positive, scribble=True))
    if not entries:
        raise InputError(f"no scribbles in the label: label_info names no segments {' and '.join(_SCRIBBLES.values())}")
    return tuple(entries)


def chosen_class(params: Mapping[str, Any], classes: Mapping[int, str]) -> int | None:
    """Return the class that a client has selected; None if it names none of the model's."""
    ids = {name: value for value, name in classes.items() if value}
    names = (params.get("selected_label_name"), params.get("label"))
    return next((ids[name] for name in names if isinstance(name, str) and name in ids), None)


def _limited(items: Sequence[Item]) -> tuple[Item, ...]:
    if len(items) > MAX_ENTRIES:
        raise InputError(f"{len(items)} clicks, more than {MAX_ENTRIES}")
    return tuple(items)


def _voxels(name: str, value: Any) -> list[Voxel]:
    """Parse clicks. Coordinates between two voxels are rounded."""
    if not isinstance(value, list | tuple) or not all(map(_is_click, value)):
        raise InputError(f"{name[:64]}: clicks are given as [[i, j, k], ...]")
    try:
        return [Point(class_id=0, voxel=tuple(math.floor(n + 0.5) for n in click)).voxel for click in value]
    except ValidationError as error:
        raise InputError(f"{name[:64]}: clicks are given as [[i, j, k], ...]: {first_error(error)}") from error


def _is_click(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in value)
    )


def _looks_like_clicks(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(map(_is_click, value))
