"""Figures of labels on images, in the radiological convention: the patient's right at the left, anterior at the left of
sagittal planes, as in the viewer."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from s2vnet.data.plan import PLANES
from s2vnet.io.geometry import Geometry, LabelMap, Volume
from s2vnet.prompts import Point, Voxel
from s2vnet.utils.atomic_write import atomic_write
from s2vnet.visualization.palettes import OPACITY, hex_palette, rgba_palette
from s2vnet.visualization.windows import default_window

_Scalar = TypeVar("_Scalar", bound=np.generic)

_PLANE_AXES = ((0, 1, 2), (1, 0, 2), (2, 0, 1))
"""Canonical axes of each plane: normal, to the left, upwards."""
_LETTERS = ("APSI", "RLSI", "RLAP")
"""Directions to the left, right, top and bottom of each plane."""


def write_overlay(
    path: Path,
    volume: Volume,
    columns: Mapping[str, LabelMap],
    class_names: Mapping[int, str],
    plane: int,
    clicks: Sequence[Point] = (),
    slices: Sequence[int] | None = None,
    channel: str | None = None,
) -> None:
    """Plot rows of slices: the image, then the image under each label map.

    Args:
        path: PNG file.
        volume: its first channel is shown.
        columns: label maps by title, all on the volume's grid.
        class_names: class names by label value, for the legend.
        plane: canonical axis (R, A, S) perpendicular to the slices.
        clicks: drawn on the slices that they lie on, in all columns but the first two.
        slices: indices along the plane's axis; by default four that show classes.
        channel: name of the first channel, which chooses the window (:func:`default_window`).
    """
    geometry, orientation = volume.geometry.canonical()
    image = np.moveaxis(orientation.apply(volume.data[0]), plane, 0)
    maps: dict[str, npt.NDArray[np.integer]] = {
        title: np.moveaxis(orientation.apply(labels.data), plane, 0) for title, labels in columns.items()
    }
    row_mm, column_mm = (geometry.spacing[a] for a in range(3) if a != plane)
    aspect = column_mm / row_mm
    positions = list(orientation.apply_points([c.voxel for c in clicks])) if clicks else []
    chosen = _representative_slices(list(maps.values()), positions, plane) if slices is None else list(slices)
    low, high = default_window(image, channel)
    palette = rgba_palette(max(class_names) + 1)
    titles = ["image", *maps]
    figure = Figure(figsize=(2.6 * len(titles), 2.6 * len(chosen) + 0.5), layout="constrained", facecolor="white")
    grid = figure.subplots(len(chosen), len(titles), squeeze=False)
    for axes_row, d in zip(grid, chosen, strict=True):
        for n, (axes, title) in enumerate(zip(axes_row, titles, strict=True)):
            axes.imshow(_as_image(image[d]), cmap="gray", vmin=low, vmax=high, aspect=aspect)
            if n:
                axes.imshow(palette[_as_image(maps[title][d])], interpolation="nearest", aspect=aspect)
            for click, position in zip(clicks, positions, strict=True):
                if n > 1 and round(position[plane]) == d:
                    left, up = (position[a] for a in range(3) if a != plane)
                    color = palette[click.class_id, :3] if click.class_id else "black"
                    _draw_click(axes, (image.shape[1] - 1 - left, image.shape[2] - 1 - up), color)
            axes.set_axis_off()
            _draw_letters(axes, plane)
            axes.set_title(f"{title} ({PLANES[plane]} {d}, {_position_mm(geometry, plane, d):.1f} mm)", fontsize=8)
    _add_legend(figure, palette, class_names, [k for k in class_names if any((m == k).any() for m in maps.values())])
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)


def orthogonal_planes(
    volume: Volume,
    labels: LabelMap,
    class_names: Mapping[int, str],
    voxel: Voxel,
    clicks: Sequence[Point] = (),
    channel: str | None = None,
) -> Figure:
    """Plot the sagittal, coronal and axial planes through a voxel with outlined classes, in physical proportions.

    Args:
        volume: its first channel is shown.
        labels: label map on the volume's grid.
        class_names: class names by label value, for the legend of the classes in the planes.
        voxel: file indices (i, j, k), shown in the titles.
        clicks: drawn on the planes that they lie on.
        channel: name of the first channel, which chooses the window (:func:`default_window`).
    """
    geometry, orientation = volume.geometry.canonical()
    image, classes = orientation.apply(volume.data[0]), orientation.apply(labels.data)
    center, *positions = orientation.apply_points([voxel, *(click.voxel for click in clicks)]).astype(int)
    planes = [(np.take(image, center[n], n), np.take(classes, center[n], n)) for n in range(3)]
    low, high = default_window(np.concatenate([gray.ravel() for gray, _ in planes]), channel)
    palette = np.array([to_rgba(color) for color in hex_palette(max(class_names) + 1)])
    figure, row = _plane_axes(np.multiply(geometry.shape, geometry.spacing))
    for axes, (normal, left, up), (gray, plane_classes) in zip(row, _PLANE_AXES, planes, strict=True):
        aspect = geometry.spacing[up] / geometry.spacing[left]
        axes.imshow(_as_image(gray), cmap="gray", vmin=low, vmax=high, aspect=aspect)
        axes.imshow(_outline(_as_image(plane_classes), palette), interpolation="nearest", aspect=aspect)
        for click, position in zip(clicks, positions, strict=True):
            if position[normal] == center[normal]:
                color = palette[click.class_id] if click.class_id else "black"
                pixel = gray.shape[0] - 1 - position[left], gray.shape[1] - 1 - position[up]
                _draw_click(axes, pixel, color, "+" if click.positive else "x")
        file_axis = orientation.axes[normal]
        mm = _position_mm(geometry, normal, center[normal])
        axes.set_title(f"{PLANES[normal]} ({'ijk'[file_axis]} = {voxel[file_axis]}, {mm:.1f} mm)", fontsize=8)
        _draw_letters(axes, normal)
        axes.set_axis_off()
    shown = {int(k) for _, plane_classes in planes for k in np.unique(plane_classes)}
    _add_legend(figure, palette, class_names, sorted(shown & set(class_names)))
    return figure


def figure_to_png(figure: Figure) -> bytes:
    """Render a figure as PNG."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def _plane_axes(extent_mm: npt.NDArray[np.float64]) -> tuple[Figure, Sequence[Axes]]:
    """Figure with axes for three planes of a volume of this extent (3,)."""
    widths = [extent_mm[left] for _, left, _ in _PLANE_AXES]
    height = 9 * max(extent_mm[up] for _, _, up in _PLANE_AXES) / sum(widths) + 0.7
    figure = Figure(figsize=(9, min(height, 9)), layout="constrained", facecolor="white")
    return figure, figure.subplots(1, 3, width_ratios=widths, squeeze=False)[0]


def _position_mm(geometry: Geometry, plane: int, index: int) -> float:
    """World coordinate (R, A or S) of the middle of a slice of a canonical grid."""
    middle = [(length - 1) / 2 for length in geometry.shape]
    middle[plane] = index
    return float(geometry.to_world([middle])[0, plane])


def _draw_letters(axes: Axes, plane: int) -> None:
    """Letters of the four directions, with halos that keep them legible on any image."""
    places = ((0.02, 0.5), (0.98, 0.5), (0.5, 0.98), (0.5, 0.02))
    for letter, (x, y), ha, va in zip(
        _LETTERS[plane],
        places,
        ("left", "right", "center", "center"),
        ("center", "center", "top", "bottom"),
        strict=True,
    ):
        halo = [withStroke(linewidth=2, foreground="black")]
        axes.text(x, y, letter, color="white", fontsize=8, ha=ha, va=va, transform=axes.transAxes, path_effects=halo)


def _draw_click(axes: Axes, pixel: tuple[float, float], color: Any, marker: str = "+") -> None:
    """Marker in a class's color on a white cross."""
    axes.plot(*pixel, "+", color="white", markersize=11, markeredgewidth=3)
    axes.plot(*pixel, marker, color=color, markersize=9)


def _add_legend(
    figure: Figure, palette: npt.NDArray[np.float64], class_names: Mapping[int, str], classes: Sequence[int]
) -> None:
    """Legend of the classes but background."""
    handles = [Patch(color=palette[k, :3], label=class_names[k]) for k in classes if k]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)), fontsize=8)


def _outline(classes: npt.NDArray[np.integer], palette: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """RGBA (h, w, 4) of a plane of classes (h, w): opaque along borders of classes, else half transparent."""
    padded = np.pad(classes, 1, mode="edge")
    neighbors = (padded[2:, 1:-1], padded[:-2, 1:-1], padded[1:-1, 2:], padded[1:-1, :-2])
    edge = np.any([classes != neighbor for neighbor in neighbors], axis=0)
    rgba: npt.NDArray[np.float64] = palette[classes]
    rgba[..., 3] = np.where(classes == 0, 0, np.where(edge, 1, OPACITY))
    return rgba


def _as_image(plane: npt.NDArray[_Scalar]) -> npt.NDArray[_Scalar]:
    """Turn a slice (axes right or front, front or up) into an image seen from the feet, the front or the right."""
    return plane.T[::-1, ::-1]


def _representative_slices(
    maps: Sequence[npt.NDArray[np.integer]], clicks: Sequence[npt.NDArray[np.float64]], plane: int
) -> list[int]:
    """Up to four slices: those with clicks first, then evenly spaced ones among those with classes."""
    labelled = np.flatnonzero(np.any([(m > 0).any((1, 2)) for m in maps], axis=0))
    spread = labelled[np.linspace(0, len(labelled) - 1, 6).astype(int)[1:-1]] if len(labelled) else [len(maps[0]) // 2]
    clicked = [round(float(c[plane])) for c in clicks]
    return sorted(set(list(dict.fromkeys([*clicked, *(int(s) for s in spread)]))[:4]))
