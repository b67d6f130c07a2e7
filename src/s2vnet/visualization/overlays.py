"""Overlays of labels on images, as PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from s2vnet.io.geometry import LabelMap, Volume
from s2vnet.prompts import Point, Voxel
from s2vnet.utils.atomic_write import atomic_write

_Scalar = TypeVar("_Scalar", bound=np.generic)

OPACITY = 0.45
PLANES = ("sagittal", "coronal", "axial")
"""By the canonical axis (R, A, S) that they lie across."""


def rgba_palette(count: int) -> npt.NDArray[np.float64]:
    """RGBA (count, 4) per class; background is transparent."""
    palette = np.array([colormaps["tab20"](n % 20) for n in range(0, 2 * count, 2)]) if count <= 10 else None
    if palette is None:
        palette = colormaps["gist_rainbow"](np.linspace(0, 1, count))
    rolled = np.roll(palette, 1, axis=0)
    rolled[:, 3] = OPACITY
    rolled[0, 3] = 0
    return rolled


def hex_palette(count: int) -> list[str]:
    """``#rrggbb`` per class; neighbours in the list look unlike each other."""
    if count <= 20:
        return [to_hex(colormaps["tab20"]((2 * n - 2) % 20 + (n > 10))) for n in range(count)]
    return [to_hex(colormaps["gist_rainbow"](n * 0.381966 % 1)) for n in range(count)]  # the golden angle


def write_overlay(
    path: Path,
    volume: Volume,
    columns: Mapping[str, LabelMap],
    class_names: Mapping[int, str],
    plane: int,
    clicks: Sequence[Point] = (),
    slices: Sequence[int] | None = None,
) -> None:
    """Rows of slices: the image, then the image under each label map.

    Args:
        path: PNG file.
        volume: its first channel is shown.
        columns: label map by title, all on the volume's grid.
        class_names: for the legend.
        plane: canonical axis (R, A, S) that slices cut across.
        clicks: drawn on every column but the first two, on the slice they lie on.
        slices: numbers along the plane; four that show classes when not given.
    """
    geometry, orientation = volume.geometry.canonical()
    image = np.moveaxis(orientation.apply(volume.data[0]), plane, 0)
    maps: dict[str, npt.NDArray[np.integer]] = {
        title: np.moveaxis(orientation.apply(labels.data), plane, 0) for title, labels in columns.items()
    }
    row_mm, column_mm = (geometry.spacing[a] for a in range(3) if a != plane)
    placed = list(orientation.apply_points([c.voxel for c in clicks])) if clicks else []
    chosen = _telling(list(maps.values()), placed, plane) if slices is None else list(slices)
    low, high = np.percentile(image, [0.5, 99.5])
    palette = rgba_palette(max(class_names) + 1)
    titles = ["image", *maps]
    figure = Figure(figsize=(2.6 * len(titles), 2.6 * len(chosen) + 0.5), layout="constrained", facecolor="white")
    grid = figure.subplots(len(chosen), len(titles), squeeze=False)
    for axes_row, d in zip(grid, chosen, strict=True):
        for n, (axes, title) in enumerate(zip(axes_row, titles, strict=True)):
            axes.imshow(_upright(image[d]), cmap="gray", vmin=low, vmax=high, aspect=column_mm / row_mm)
            if n:
                axes.imshow(palette[_upright(maps[title][d])], interpolation="nearest", aspect=column_mm / row_mm)
            for click, place in zip(clicks, placed, strict=True):
                if n > 1 and round(place[plane]) == d:
                    row, column = (place[a] for a in range(3) if a != plane)
                    shown = image.shape[2] - 1 - column
                    axes.plot(row, shown, "+", color="white", markersize=11, markeredgewidth=3)
                    axes.plot(
                        row, shown, "+", color=palette[click.class_id, :3] if click.class_id else "black", markersize=9
                    )
            axes.set_axis_off()
            axes.set_title(f"{title} ({PLANES[plane]} {d})", fontsize=8)
    shown_classes = [k for k in class_names if k and any((m == k).any() for m in maps.values())]
    handles = [Patch(color=palette[k, :3], label=class_names[k]) for k in shown_classes]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)), fontsize=8)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)


def orthogonal_planes(
    volume: Volume, labels: LabelMap, class_names: Mapping[int, str], voxel: Voxel, clicks: Sequence[Point] = ()
) -> Figure:
    """Sagittal, coronal and axial plane through a voxel: the first channel under outlined classes, in true proportion.

    Args:
        volume: its first channel is shown.
        labels: on the volume's grid.
        class_names: for the legend, which lists what the planes show.
        voxel: of the file; titles name its indices.
        clicks: drawn on the planes that they lie on.
    """
    geometry, orientation = volume.geometry.canonical()
    image, classes = orientation.apply(volume.data[0]), orientation.apply(labels.data)
    place, *placed = orientation.apply_points([voxel, *(click.voxel for click in clicks)]).astype(int)
    across = [(0, 1, 2), (1, 0, 2), (2, 0, 1)]
    extent = np.multiply(geometry.shape, geometry.spacing)
    shown = [(np.take(image, place[n], n), np.take(classes, place[n], n)) for n in range(3)]
    low, high = np.percentile(np.concatenate([grey.ravel() for grey, _ in shown]), [0.5, 99.5])
    palette = np.array([to_rgba(colour) for colour in hex_palette(max(class_names) + 1)])
    widths = [extent[right] for _, right, _ in across]
    height = 9 * max(extent[up] for _, _, up in across) / sum(widths) + 0.7
    figure = Figure(figsize=(9, min(height, 9)), layout="constrained", facecolor="white")
    row = figure.subplots(1, 3, width_ratios=widths, squeeze=False)[0]
    for axes, (normal, right, up), (grey, found) in zip(row, across, shown, strict=True):
        aspect = geometry.spacing[up] / geometry.spacing[right]
        axes.imshow(_upright(grey), cmap="gray", vmin=low, vmax=high, aspect=aspect)
        axes.imshow(_outlined(_upright(found), palette), interpolation="nearest", aspect=aspect)
        for click, at in zip(clicks, placed, strict=True):
            if at[normal] == place[normal]:
                spot = at[right], grey.shape[1] - 1 - at[up]
                colour = palette[click.class_id] if click.class_id else "black"
                axes.plot(*spot, "+", color="white", markersize=11, markeredgewidth=3)
                axes.plot(*spot, "+" if click.positive else "x", color=colour, markersize=9)
        file_axis = orientation.axes[normal]
        axes.set_title(f"{PLANES[normal]} ({'ijk'[file_axis]} = {voxel[file_axis]})", fontsize=8)
        axes.set_axis_off()
    legend = sorted({int(k) for _, found in shown for k in np.unique(found)} & set(class_names) - {0})
    if legend:
        handles = [Patch(color=palette[k], label=class_names[k]) for k in legend]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)), fontsize=8)
    return figure


def figure_to_png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def _outlined(found: npt.NDArray[np.integer], palette: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """RGBA (.., .., 4) of a plane of classes: solid where another class is next to it, else half transparent."""
    padded = np.pad(found, 1, mode="edge")
    beside = (padded[2:, 1:-1], padded[:-2, 1:-1], padded[1:-1, 2:], padded[1:-1, :-2])
    edge = np.any([found != other for other in beside], axis=0)
    painted: npt.NDArray[np.float64] = palette[found]
    painted[..., 3] = np.where(found == 0, 0, np.where(edge, 1, OPACITY))
    return painted


def _upright(plane: npt.NDArray[_Scalar]) -> npt.NDArray[_Scalar]:
    """A slice (first axis to the right or front, second up or back) as an image whose rows run downwards."""
    return plane.T[::-1]


def _telling(
    maps: Sequence[npt.NDArray[np.integer]], clicks: Sequence[npt.NDArray[np.float64]], plane: int
) -> list[int]:
    """Up to four slices: those with clicks first, then evenly over what the labels show."""
    found = np.flatnonzero(np.any([(m > 0).any((1, 2)) for m in maps], axis=0))
    spread = found[np.linspace(0, len(found) - 1, 6).astype(int)[1:-1]] if len(found) else [len(maps[0]) // 2]
    clicked = [round(float(c[plane])) for c in clicks]
    return sorted(set(list(dict.fromkeys([*clicked, *(int(s) for s in spread)]))[:4]))
