"""Save the panel's labels layer on the grid of the scan that it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from s2vnet.errors import InputError
from s2vnet.integrations.napari.reader import GEOMETRY
from s2vnet.io.files import write_labels
from s2vnet.io.geometry import LabelMap


def write(path: str, labels: Any, attributes: Mapping[str, Any]) -> list[str]:
    """Write a labels layer (I, J, K) as it is shown (napari's writer hook).

    Args:
        path: file to write; its ending is the format.
        labels: the layer's voxels.
        attributes: of the layer; its metadata hold the grid.

    Returns:
        The written path.

    Raises:
        InputError: a layer of no known grid, or as :func:`s2vnet.io.files.write_labels`.
    """
    geometry = attributes.get("metadata", {}).get(GEOMETRY)
    if geometry is None:
        raise InputError("the grid of this layer is unknown; save the layer `labels` of the S2VNet panel")
    write_labels(Path(path), LabelMap(np.asarray(labels), geometry))
    return [path]
