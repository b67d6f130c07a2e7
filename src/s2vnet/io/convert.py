"""Images in memory: numpy arrays with an affine, nibabel's and SimpleITK's images, as volumes and label maps and back.

Nothing is written to disk. Libraries that the caller has not imported are not imported.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from s2vnet.errors import InputError
from s2vnet.io import itk, nifti
from s2vnet.io.files import round_labels
from s2vnet.io.geometry import Geometry, LabelMap, Volume
from s2vnet.io.lazy_image import LazyImage, as_lazy_image

if TYPE_CHECKING:
    import nibabel as nib
    import SimpleITK as sitk

    AnyImage: TypeAlias = Volume | LazyImage | npt.NDArray[Any] | nib.spatialimages.SpatialImage | sitk.Image
    """Image or label map in memory; an array needs an affine beside it."""


def as_volume(image: AnyImage, affine: npt.ArrayLike | None = None, fill_nonfinite: float | None = None) -> Volume:
    """Convert an image in memory to a volume.

    Args:
        image: Volume, nibabel image (I, J, K) or (I, J, K, C), SimpleITK image (3D, with C components), or array
            (I, J, K) or (C, I, J, K).
        affine: Matrix (4, 4) from voxel indices i j k to the world in RAS+ mm, as in NIfTI; for an array only.
        fill_nonfinite: Value that replaces NaN and infinite voxels; None refuses them.

    Returns:
        Volume (C, I, J, K), float32. Arrays that are float32 already are not copied.

    Raises:
        InputError: An array without an affine, or an affine beside another image; not a grey-value image in three
            dimensions; an unusable grid; NaN or infinity.
    """
    return as_lazy(image, affine).require_finite(fill_nonfinite).to_volume()


def as_lazy(image: AnyImage, affine: npt.ArrayLike | None = None) -> LazyImage:
    """Convert an image in memory to a lazy image, in its own data type. Arguments and errors as :func:`as_volume`."""
    if isinstance(image, Volume | LazyImage):
        _refuse_affine(affine, type(image).__name__)
        return as_lazy_image(image)
    if isinstance(image, np.ndarray):
        return _from_array(image, affine)
    data, geometry = _from_library(image, affine)
    return LazyImage.from_arrays(data, geometry)


def as_label_map(labels: LabelMap | AnyImage, affine: npt.ArrayLike | None = None) -> LabelMap:
    """Convert labels in memory to a label map.

    Args:
        labels: Label map, nibabel or SimpleITK image, or array (I, J, K) of integers or booleans.
        affine: As of :func:`as_volume`.

    Raises:
        InputError: As :func:`as_volume`; several channels; values that are not integers in 0..65535.
    """
    if isinstance(labels, LabelMap):
        _refuse_affine(affine, "LabelMap")
        return labels
    lazy = as_lazy(labels, affine)
    if len(lazy.channels) != 1:
        raise InputError(f"{len(lazy.channels)} channels; labels have one")
    stored = lazy.channels[0].stored
    if stored.dtype.kind == "f":
        stored = round_labels(stored)
    return LabelMap(stored, lazy.geometry)


def to_nibabel(image: Volume | LabelMap) -> nib.spatialimages.SpatialImage:
    """Convert a volume or label map to a NIfTI image of nibabel, (I, J, K) or (I, J, K, C) for several channels."""
    made = nifti.make_image(*_frames(image))
    # with its affine, which replaces forms of a header that contradicted itself
    return type(made)(made.dataobj, image.geometry.affine, made.header)


def to_simpleitk(image: Volume | LabelMap) -> sitk.Image:
    """Convert a volume or label map to a 3D image of SimpleITK; several channels become vector components."""
    return itk.make_image(*_frames(image))


def _frames(image: Volume | LabelMap) -> tuple[npt.NDArray[Any], Geometry]:
    return (image.data if isinstance(image, Volume) else image.data[None]), image.geometry


def _from_array(array: npt.NDArray[Any], affine: npt.ArrayLike | None) -> LazyImage:
    if affine is None:
        raise InputError("an array needs its affine, a 4x4 matrix from voxel indices i j k to RAS+ mm")
    if array.ndim not in (3, 4):
        raise InputError(f"array {array.shape}; (I, J, K) or (C, I, J, K) is needed")
    data = array[None] if array.ndim == 3 else array
    i, j, k = data.shape[1:]
    return LazyImage.from_arrays(data, Geometry((i, j, k), np.asarray(affine, np.float64)))


def _from_library(image: Any, affine: npt.ArrayLike | None) -> tuple[npt.NDArray[Any], Geometry]:
    nib, sitk = sys.modules.get("nibabel"), sys.modules.get("SimpleITK")
    if nib is not None and isinstance(image, nib.spatialimages.SpatialImage):
        _refuse_affine(affine, "nibabel image")
        return nifti.read_image(image)
    if sitk is not None and isinstance(image, sitk.Image):
        _refuse_affine(affine, "SimpleITK image")
        return itk.read_image(image)
    known = "a Volume, an array with its affine, or an image of nibabel or SimpleITK"
    raise InputError(f"{type(image).__name__} is no image; give {known}, or read a file with s2vnet.read_image")


def _refuse_affine(affine: npt.ArrayLike | None, kind: str) -> None:
    if affine is not None:
        raise InputError(f"a {kind} has its own affine; leave `affine` out")
