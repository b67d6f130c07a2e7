"""What a file holds before it is an image or a label map."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from s2vnet.errors import InputError
from s2vnet.io.geometry import MAX_VOXELS, Geometry

_DEFLATE_LIMIT = 1032
"""Deflate cannot shrink data further (https://zlib.net/zlib_tech.html), so a header that claims more lies."""
EVERY_FILE = 1 << 24
"""Bytes that a DICOM file may always claim: JPEG 2000 makes next to nothing of an even picture of any size."""


Scale = Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]
"""From values as stored to those that are meant."""


def as_float32(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Values without slope and intercept; what float32 cannot hold becomes infinite."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32, copy=False)


class Frames(NamedTuple):
    """One or more 3D arrays on one grid."""

    data: npt.NDArray[Any]
    """(F, I, J, K) as stored, or float32 where the caller asked for it."""
    geometry: Geometry
    scale: Scale = as_float32
    """From `data`, or a part of it, to the image."""


def require_plausible(path: Path, voxels: int, bytes_per_voxel: int = 1, least: int = 0) -> None:
    """Check a header's claim before anything is allocated; the file may be gzipped or not.

    Args: the file, its voxels, their bytes, and bytes that any file may claim.

    Raises:
        InputError: more than ``MAX_VOXELS`` over all frames, or more bytes than the file can hold.
    """
    if voxels > MAX_VOXELS:
        raise InputError(f"{voxels} voxels are over the limit of {MAX_VOXELS}; crop the image or mend its header")
    claimed = voxels * bytes_per_voxel
    size = path.stat().st_size
    if claimed > max(_DEFLATE_LIMIT * size, least):
        raise InputError(f"the header claims {claimed} bytes, which a file of {size} bytes cannot hold; it is damaged")
