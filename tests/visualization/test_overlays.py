"""Overlays: slices that tell something, the same picture for every order of the file's axes."""

from __future__ import annotations

import contextlib
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from s2vnet.errors import InputError
from s2vnet.io.geometry import LabelMap, Volume
from s2vnet.prompts import Point
from s2vnet.visualization.overlays import write_overlay

NAMES = {0: "background", 1: "left part", 2: "right"}
Phantom = tuple[Volume, LabelMap]


def picture(path: Path) -> np.ndarray:
    return np.asarray(matplotlib.image.imread(path))


@pytest.mark.parametrize("plane", [0, 1, 2])
def test_every_plane_and_clicks(phantom: Phantom, tmp_path: Path, plane: int) -> None:
    volume, labels = phantom
    clicks = [Point(class_id=k, voxel=(4 + k, 8, 4)) for k in NAMES]
    columns = {"automatic": labels, "after clicks": labels}
    plain, clicked = tmp_path / "plain.png", tmp_path / "clicked.png"
    write_overlay(plain, volume, columns, NAMES, plane, slices=[4])
    write_overlay(clicked, volume, columns, NAMES, plane, clicks, slices=[4])
    a, b = picture(plain), picture(clicked)
    assert a.shape == b.shape
    third = a.shape[1] // 3
    on_slice = plane == 2  # the clicks share k = 4, and i and j are far from 4 in the other orthogonal_planes
    assert np.array_equal(a[:, : 2 * third - 9], b[:, : 2 * third - 9])
    assert np.array_equal(a, b) != on_slice or plane == 0


def test_there_are_at_most_four_slices(phantom: Phantom, tmp_path: Path) -> None:
    volume, labels = phantom
    clicks = [Point(class_id=1, voxel=(4, 8, k)) for k in range(6)]
    write_overlay(tmp_path / "a.png", volume, {"a": labels, "b": labels}, NAMES, 2, clicks)
    write_overlay(tmp_path / "b.png", volume, {"a": labels, "b": labels}, NAMES, 2, clicks, slices=range(4))
    assert np.array_equal(picture(tmp_path / "a.png"), picture(tmp_path / "b.png"))


def test_empty_labels(phantom: Phantom, tmp_path: Path) -> None:
    volume, labels = phantom
    empty = LabelMap(np.zeros_like(labels.data), labels.geometry)
    write_overlay(tmp_path / "a.png", volume, {"automatic": empty}, NAMES, 2)
    write_overlay(tmp_path / "b.png", volume, {"automatic": empty}, NAMES, 2, slices=[4])
    assert np.array_equal(picture(tmp_path / "a.png"), picture(tmp_path / "b.png"))


def test_overlays_do_not_depend_on_file_axes(oriented: tuple[Volume, Volume, str], tmp_path: Path) -> None:
    pictures = []
    for name, volume in zip("ab", oriented[:2], strict=True):
        shown = LabelMap((volume.data[0] > 500).astype(np.uint8), volume.geometry)
        write_overlay(tmp_path / f"{name}.png", volume, {"bright": shown}, NAMES, 2, slices=[5])
        pictures.append(picture(tmp_path / f"{name}.png"))
    assert np.array_equal(*pictures)


def test_a_missing_folder_is_refused(phantom: Phantom, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write"):
        write_overlay(tmp_path / "no" / "a.png", phantom[0], {"a": phantom[1]}, NAMES, 2, slices=[4])


@pytest.mark.parametrize(("plane", "letters"), [(0, "APSI"), (1, "RLSI"), (2, "RLAP")])
def test_the_patients_right_is_at_the_left(
    phantom: Phantom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plane: int, letters: str
) -> None:
    """A bright voxel near the first corner, which is right-most at no axis, is drawn at the right, below."""
    volume, labels = phantom
    data = np.zeros_like(volume.data)
    data[:, 1:3, 1:3, 1:3] = 1000
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    with contextlib.suppress(FileNotFoundError):
        write_overlay(tmp_path / "a.png", Volume(data, volume.geometry), {"a": labels}, NAMES, plane, slices=[2])
    axes = figures[0].axes[0]
    shown = np.asarray(axes.images[0].get_array())
    y, x = np.argwhere(shown > 500).mean(0)
    assert x > shown.shape[1] / 2
    assert y > shown.shape[0] / 2
    assert [text.get_text() for text in axes.texts] == list(letters)
