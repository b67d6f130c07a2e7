"""Read images as napari layers: voxels in file axis order i j k, with an affine to RAS+ mm.

``napari.json`` lists the contributions (https://napari.org/stable/plugins/technical_references/manifest.html).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from s2vnet.errors import InputError
from s2vnet.io.dicom.series import series_files
from s2vnet.io.files import image_ending, read_image

GEOMETRY = "s2vnet"
"""Key in a layer's metadata of its :class:`~s2vnet.io.geometry.Geometry`."""

LayerData = tuple[Any, dict[str, Any], str]
Paths = str | Sequence[str]


def get_reader(path: Paths) -> Callable[[Paths], list[LayerData]] | None:
    """Return :func:`read` for image files and folders of one DICOM series, else None (napari's reader hook)."""
    return read if all(_is_scan(Path(one)) for one in _as_list(path)) else None


def read(paths: Paths) -> list[LayerData]:
    """Read one image layer (I, J, K) per file, series or frame. Raises InputError as :func:`read_image`."""
    volume = read_image(_as_list(paths), frames_as_channels=True)
    options = {"affine": volume.geometry.affine, "metadata": {GEOMETRY: volume.geometry}}
    return [(channel, dict(options), "image") for channel in volume.data]


def _as_list(paths: Paths) -> list[str]:
    return [paths] if isinstance(paths, str) else list(paths)


def _is_scan(path: Path) -> bool:
    try:
        return bool(series_files(path) if path.is_dir() else image_ending(path))
    except InputError:
        return False
