"""Grids of arrays without orientation: as the address or the client states them, or guessed from the image.

In order of precedence:

1. axis codes at the end of the address: ``/nninteractive/liver/RAS``
2. ``image_properties`` of the client: ``axes`` (codes), ``direction`` (SimpleITK's, for an array of its image), or what
   nnU-Net's readers return (``sitk_stuff``, ``nibabel_stuff``)
3. :func:`s2vnet.inference.array_axes.guess_axes`
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, ValidationError, field_validator

from s2vnet.errors import InputError
from s2vnet.inference.array_axes import SIMPLEITK_AXES, guess_axes
from s2vnet.inference.segmenter import Segmenter
from s2vnet.io.geometry import Geometry
from s2vnet.io.nifti import map_voxels, replace_geometry
from s2vnet.prompts import Voxel
from s2vnet.utils.validation_errors import first_error

Size = Annotated[float, Field(gt=0, lt=1e4, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
ADVICE = "add the axes to the address, such as /nninteractive/liver/SPL"


class _ItkProperties(BaseModel):
    """Properties by nnU-Net's SimpleITKIO; its arrays have the axes of the image in reverse order."""

    spacing: tuple[Size, Size, Size]
    direction: tuple[Finite, Finite, Finite, Finite, Finite, Finite, Finite, Finite, Finite]
    origin: tuple[Finite, Finite, Finite] = (0, 0, 0)


class _NibabelProperties(BaseModel):
    """Properties by nnU-Net's NibabelIO and NibabelIOWithReorient; arrays have the axes in reverse order."""

    original_affine: Annotated[list[list[Finite]], Field(min_length=4, max_length=4)]
    reoriented_affine: Annotated[list[list[Finite]], Field(min_length=4, max_length=4)] | None = None


class ImageProperties(BaseModel):
    """Properties of an image that clients send; others are ignored."""

    spacing: tuple[Size, Size, Size] | None = None
    """Voxel size in mm along the array's axes. Signs are ignored: napari's panel sends the scale of its layer, which is
    negative along axes that are displayed the other way round."""
    axes: str | None = None
    """Codes of the directions to which the array's axes point."""
    direction: Annotated[list[Finite], Field(min_length=9, max_length=9)] | None = None
    """SimpleITK's direction of the image from which the array was taken."""
    sitk_stuff: _ItkProperties | None = None
    nibabel_stuff: _NibabelProperties | None = None

    @field_validator("spacing", mode="before")
    @classmethod
    def _size(cls, value: Any) -> Any:
        numbers = isinstance(value, list) and all(isinstance(n, int | float) for n in value)
        return [abs(n) for n in value] if numbers else value

    @field_validator("direction", mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        rows = isinstance(value, list) and all(isinstance(row, list) for row in value)
        return [number for row in value for number in row] if rows else value

    @field_validator("axes")
    @classmethod
    def _valid_axes(cls, value: str | None) -> str | None:
        try:
            return value and require_axes(value)
        except InputError as error:
            raise ValueError(str(error)) from error


def parse_properties(value: object) -> ImageProperties:
    """Validate what a client sends as ``image_properties``. Raises InputError."""
    try:
        return ImageProperties.model_validate({} if value is None else value)
    except ValidationError as error:
        raise InputError(f"image_properties: {first_error(error)}") from error


def require_axes(codes: str) -> str:
    """Return axis codes, in capitals. Raises InputError unless they are one of R/L, A/P and S/I each."""
    upper = codes.upper()
    if len(upper) != 3 or sorted("RASLPI".find(c) % 3 for c in upper if c in "RASLPI") != [0, 1, 2]:
        raise InputError(f"no such axes {codes!r}; three of R/L, A/P and S/I say where they point")
    return upper


def array_geometry(shape: Voxel, properties: ImageProperties, codes: str | None) -> tuple[Geometry, bool]:
    """Return the grid of an array (I, J, K), and whether it is stated; otherwise its axes are SimpleITK's.

    Args:
        shape: shape of the array.
        properties: of the image, by the client.
        codes: axis codes of the address, if any.

    Raises:
        InputError: the stated grid is invalid.
    """
    spacing = properties.spacing or (1.0, 1.0, 1.0)
    if codes or properties.axes:
        return Geometry.from_codes(shape, spacing, codes or properties.axes or ""), True
    if properties.sitk_stuff is not None:
        itk = properties.sitk_stuff
        return _from_itk(shape, itk.direction, itk.spacing, itk.origin), True
    if properties.direction is not None:
        return _from_itk(shape, properties.direction, spacing[::-1], (0, 0, 0)), True
    if properties.nibabel_stuff is not None:
        stated = properties.nibabel_stuff
        try:
            affine = np.array(stated.reoriented_affine or stated.original_affine, np.float64)
        except ValueError as error:
            raise InputError("image_properties: an affine has four rows of four numbers") from error
        return _from_reversed(shape, affine), True
    return Geometry.from_codes(shape, spacing, SIMPLEITK_AXES), False


def orient_by_content(segmenter: Segmenter, path: Path, between: Callable[[], None]) -> str:
    """Guess the axes of a NIfTI file that states SimpleITK's, and write them into its header.

    Args:
        segmenter: by which anatomy is recognised.
        path: uncompressed NIfTI file, as :func:`s2vnet.io.files.write_image` writes it.
        between: called during the computation; may raise to stop, before anything has been written.

    Returns:
        Warning for the user.
    """
    voxels, geometry = map_voxels(path)
    codes = guess_axes(segmenter, voxels, geometry.spacing, between)
    if codes != SIMPLEITK_AXES:
        replace_geometry(path, Geometry.from_codes(geometry.shape, geometry.spacing, codes))
    return (
        f"the array does not state its axes: {codes} by its content, left and right as usual; "
        f"left and right organs may be exchanged; {ADVICE}"
    )


def _from_itk(shape: Voxel, direction: npt.ArrayLike, spacing: npt.ArrayLike, origin: npt.ArrayLike) -> Geometry:
    """Grid of an array (K, J, I) of a SimpleITK image with this grid."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(direction, (3, 3)) * np.asarray(spacing, np.float64)
    affine[:3, 3] = origin
    i, j, k = shape
    return _from_reversed(shape, Geometry.from_lps((k, j, i), affine).affine)


def _from_reversed(shape: Voxel, affine: npt.NDArray[np.float64]) -> Geometry:
    """Grid of an array whose axes are those of an image with an affine (RAS+ mm) in reverse order."""
    return Geometry(shape, affine[:, [2, 1, 0, 3]] if affine.shape == (4, 4) else affine)
