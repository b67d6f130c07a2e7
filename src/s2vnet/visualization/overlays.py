"""Figures of labels on images."""

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

from s2vnet.data.plan import PLANES
from s2vnet.io.geometry import LabelMap, Volume
from s2vnet.prompts import Point, Voxel
from s2vnet.utils.atomic_write import atomic_write
from s2vnet.visualization.palettes import OPACITY, hex_palette, rgba_palette

_Scalar = TypeVar("_Scalar", bound=np.generic)

_PLANE_AXES = ((0, 1, 2), (1, 0, 2), (2, 0, 1))
"""Canonical axes of each plane: normal, to the right, upwards."""


def write_overlay(
    path: Path,
    volume: Volume,
    columns: Mapping[str, LabelMap],
    class_names: Mapping[int, str],
    plane: int,
    clicks: Sequence[Point] = (),
    slices: Sequence[int] | None = None,
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
    low, high = np.percentile(image, [0.5, 99.5])
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
                    x, y = (position[a] for a in range(3) if a != plane)
                    color = palette[click.class_id, :3] if click.class_id else "black"
                    _draw_click(axes, (x, image.shape[2] - 1 - y), color)
            axes.set_axis_off()
            axes.set_title(f"{title} ({PLANES[plane]} {d})", fontsize=8)
    _add_legend(figure, palette, class_names, [k for k in class_names if any((m == k).any() for m in maps.values())])
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)


def orthogonal_planes(
    volume: Volume, labels: LabelMap, class_names: Mapping[int, str], voxel: Voxel, clicks: Sequence[Point] = ()
) -> Figure:
    """Plot the sagittal, coronal and axial planes through a voxel with outlined classes, in physical proportions.

    Args:
        volume: its first channel is shown.
        labels: label map on the volume's grid.
        class_names: class names by label value, for the legend of the classes in the planes.
        voxel: file indices (i, j, k), shown in the titles.
        clicks: drawn on the planes that they lie on.
    """
    geometry, orientation = volume.geometry.canonical()
    image, classes = orientation.apply(volume.data[0]), orientation.apply(labels.data)
    center, *positions = orientation.apply_points([voxel, *(click.voxel for click in clicks)]).astype(int)
    planes = [(np.take(image, center[n], n), np.take(classes, center[n], n)) for n in range(3)]
    low, high = np.percentile(np.concatenate([gray.ravel() for gray, _ in planes]), [0.5, 99.5])
    palette = np.array([to_rgba(color) for color in hex_palette(max(class_names) + 1)])
    figure, row = _plane_axes(np.multiply(geometry.shape, geometry.spacing))
    for axes, (normal, right, up), (gray, plane_classes) in zip(row, _PLANE_AXES, planes, strict=True):
        aspect = geometry.spacing[up] / geometry.spacing[right]
        axes.imshow(_as_image(gray), cmap="gray", vmin=low, vmax=high, aspect=aspect)
        axes.imshow(_outline(_as_image(plane_classes), palette), interpolation="nearest", aspect=aspect)
        for click, position in zip(clicks, positions, strict=True):
            if position[normal] == center[normal]:
                color = palette[click.class_id] if click.class_id else "black"
                pixel = position[right], gray.shape[1] - 1 - position[up]
                _draw_click(axes, pixel, color, "+" if click.positive else "x")
        file_axis = orientation.axes[normal]
        axes.set_title(f"{PLANES[normal]} ({'ijk'[file_axis]} = {voxel[file_axis]})", fontsize=8)
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
    widths = [extent_mm[right] for _, right, _ in _PLANE_AXES]
    height = 9 * max(extent_mm[up] for _, _, up in _PLANE_AXES) / sum(widths) + 0.7
    figure = Figure(figsize=(9, min(height, 9)), layout="constrained", facecolor="white")
    return figure, figure.subplots(1, 3, width_ratios=widths, squeeze=False)[0]


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
    """Turn a slice (axes right or front, up or back) into an image whose rows run downwards."""
    return plane.T[::-1]


def _representative_slices(
    maps: Sequence[npt.NDArray[np.integer]], clicks: Sequence[npt.NDArray[np.float64]], plane: int
) -> list[int]:
    """Up to four slices: those with clicks first, then evenly spaced ones among those with classes."""
    labelled = np.flatnonzero(np.any([(m > 0).any((1, 2)) for m in maps], axis=0))
    spread = labelled[np.linspace(0, len(labelled) - 1, 6).astype(int)[1:-1]] if len(labelled) else [len(maps[0]) // 2]
    clicked = [round(float(c[plane])) for c in clicks]
    return sorted(set(list(dict.fromkeys([*clicked, *(int(s) for s in spread)]))[:4]))
