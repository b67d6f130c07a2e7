"""Plausibility checks of what an image header claims, before anything is allocated."""

from __future__ import annotations

from pathlib import Path

from s2vnet.errors import InputError
from s2vnet.io.geometry import MAX_VOXELS

MAX_DEFLATE_RATIO = 1032
"""Largest compression ratio of deflate (https://zlib.net/zlib_tech.html)."""
MIN_PLAUSIBLE_NBYTES = 1 << 24
"""Bytes that any DICOM file may claim: JPEG 2000 compresses a constant picture of any size to almost nothing."""


def require_plausible_size(path: Path, voxels: int, bytes_per_voxel: int = 1, min_nbytes: int = 0) -> None:
    """Check the size that a header claims against the size of its file, which may be gzipped.

    Args:
        path: image file.
        voxels: number of voxels over all frames.
        bytes_per_voxel: size in bytes of all components of a voxel.
        min_nbytes: size in bytes that is accepted for a file of any size.

    Raises:
        InputError: more than ``MAX_VOXELS``, or more bytes than the file can hold.
    """
    if voxels > MAX_VOXELS:
        raise InputError(f"{voxels} voxels are over the limit of {MAX_VOXELS}; crop the image or correct its header")
    claimed = voxels * bytes_per_voxel
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{error.strerror}", path=path) from error
    if claimed > max(MAX_DEFLATE_RATIO * size, min_nbytes):
        raise InputError(f"the header claims {claimed} bytes, which a file of {size} bytes cannot hold; it is damaged")
