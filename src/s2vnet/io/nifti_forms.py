"""Orientation of a NIfTI header: qform, sform and voxel sizes, also where they contradict each other.

A header states the voxel-to-world mapping twice, as a quaternion with voxel sizes (qform) and as a matrix (sform);
either may be absent, damaged, or disagree with the other
(https://nifti.nimh.nih.gov/nifti-1/documentation/nifti1fields/nifti1fields_pages/qsform.html). Readers choose
differently between them, so the raw values are kept to be written with the labels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

SIZE_TOLERANCE = 0.01
"""Largest relative difference between voxel sizes of sform and pixdim that agree."""
_QUATERNION_TOLERANCE = 0.01
"""Largest excess over 1 of the squared length of a unit quaternion's vector part, which rounding may cause."""
_SHEAR_TOLERANCE = 1e-3
"""Largest cosine between axes that are orthogonal."""
_SINGULAR = 1e-6
"""Smallest determinant of the unit-length voxel axes of a usable matrix."""

MM = 2
"""NIfTI's code of millimetres."""
_OTHER_UNITS = {1: ("metres", 1000.0), 3: ("microns", 0.001)}
"""Name and length in mm of NIfTI's other units of length, by code."""
_UNIT_BITS = 7
"""Bits of ``xyzt_units`` that hold the unit of length."""


class NiftiForms(NamedTuple):
    """Fields of a header that state its orientation, as stored."""

    qform_code: int
    sform_code: int
    quaternion: tuple[float, ...]
    """``quatern_b``, ``quatern_c`` and ``quatern_d``."""
    offset: tuple[float, ...]
    """``qoffset_x``, ``qoffset_y`` and ``qoffset_z``."""
    pixdim: tuple[float, ...]
    """``pixdim[0..3]``: handedness of the qform, and voxel sizes."""
    rows: tuple[tuple[float, ...], ...]
    """``srow_x``, ``srow_y`` and ``srow_z``, four values each."""
    unit: int = MM
    """Code of the unit of all lengths (``xyzt_units``); mm where it is not stated."""

    @classmethod
    def from_header(cls, header: Any) -> NiftiForms:
        """Fields of a nibabel header."""
        return cls(
            int(header["qform_code"]),
            int(header["sform_code"]),
            tuple(float(header[f"quatern_{name}"]) for name in "bcd"),
            tuple(float(header[f"qoffset_{name}"]) for name in "xyz"),
            tuple(header["pixdim"][:4].astype(float).tolist()),
            tuple(tuple(header[f"srow_{name}"].astype(float).tolist()) for name in "xyz"),
            int(header["xyzt_units"]) & _UNIT_BITS or MM,
        )

    def in_mm(self) -> NiftiForms:
        """The same orientation with lengths in mm."""
        if self.unit not in _OTHER_UNITS:
            return self._replace(unit=MM)
        factor = _OTHER_UNITS[self.unit][1]
        sizes = (value * factor for value in self.pixdim[1:])
        return self._replace(
            offset=tuple(value * factor for value in self.offset),
            pixdim=(self.pixdim[0], *sizes),
            rows=tuple((*(value * factor for value in row),) for row in self.rows),
            unit=MM,
        )

    def write_to(self, header: Any) -> None:
        """Set the fields of a nibabel header."""
        header["qform_code"], header["sform_code"] = self.qform_code, self.sform_code
        header["pixdim"][:4] = self.pixdim
        for name, value in zip("bcd", self.quaternion, strict=True):
            header[f"quatern_{name}"] = value
        for name, value, row in zip("xyz", self.offset, self.rows, strict=True):
            header[f"qoffset_{name}"], header[f"srow_{name}"] = value, row
        if self.unit in _OTHER_UNITS:
            header["xyzt_units"] = int(header["xyzt_units"]) & ~_UNIT_BITS | self.unit


class Orientation(NamedTuple):
    """Voxel-to-world mapping that was chosen, and what a user should know about it."""

    affine: FloatArray
    """(4, 4), RAS+ mm; unusable where the header states no usable mapping at all."""
    notes: tuple[str, ...]
    """One line for each contradiction."""


def choose_affine(forms: NiftiForms, shape: tuple[int, int, int]) -> Orientation:
    """Choose between the forms of a header of an image of `shape` (I, J, K), and convert its lengths to mm.

    The sform, as nibabel does, unless it is absent or unusable, or its voxel sizes differ from ``pixdim`` by more than
    ``SIZE_TOLERANCE`` while the qform is valid. Where neither is usable, other readers' last resorts follow: a
    quaternion that has to be normalised, then the voxel sizes without an orientation.
    """
    chosen = _choose_affine(forms.in_mm(), shape)
    if forms.unit == MM:
        return chosen
    known = _OTHER_UNITS.get(forms.unit)
    text = f"the header's unit of length, code {forms.unit}, is unknown; mm is assumed"
    if known is not None:
        text = f"the header states lengths in {known[0]}; converted, voxels are {mm(_lengths(chosen.affine))}"
    return chosen._replace(notes=(text, *chosen.notes))


def _choose_affine(forms: NiftiForms, shape: tuple[int, int, int]) -> Orientation:
    """:func:`choose_affine` for lengths in mm."""
    sizes = _voxel_sizes(forms, shape)
    sform = _complete(_sform(forms), sizes, shape) if forms.sform_code > 0 else None
    qform = _qform(forms, sizes, _QUATERNION_TOLERANCE) if forms.qform_code > 0 and sizes is not None else None
    if sform is not None:
        found = _lengths(sform)
        if sizes is None:
            return Orientation(sform, (f"the header's voxel sizes {mm(forms.pixdim[1:])} are invalid; {_SFORM}",))
        if not _sizes_agree(sform, sizes, shape):
            if qform is not None:
                text = f"the header's sform has voxels of {mm(found)}, its qform and pixdim of {mm(sizes)}; "
                return Orientation(qform, (f"{text}the qform is used",))
            text = f"the header's sform has voxels of {mm(found)}, its pixdim of {mm(sizes)}, and there is no valid"
            return Orientation(sform, (f"{text} qform; the sform is used",))
        broken = forms.qform_code > 0 and qform is None
        return Orientation(sform, (f"the header's qform is invalid; {_SFORM}",) if broken else ())
    prefix = "the header's sform is not an invertible matrix; " if forms.sform_code > 0 else ""
    if qform is not None:
        return Orientation(qform, (f"{prefix}the qform is used",) if prefix else ())
    if forms.qform_code > 0 and sizes is not None:
        normalised = _qform(forms, sizes, np.inf)
        if normalised is not None:
            text = "the header's qform is not a unit quaternion; it is normalised, check left and right"
            return Orientation(normalised, (f"{prefix}{text}",))
    return _without_orientation(forms, sizes, shape)


def agreeing_forms(forms: NiftiForms, shape: tuple[int, int, int]) -> list[FloatArray] | None:
    """Affines of all forms that the header states; None where one is unusable, contradicts pixdim, or is not in mm."""
    sizes = _voxel_sizes(forms, shape)
    if forms.unit != MM or sizes is None or min(forms.pixdim[1:]) <= 0:
        return None
    stated = []
    if forms.sform_code > 0:
        stated.append(_sform(forms))
    if forms.qform_code > 0:
        stated.append(_qform(forms, sizes, _QUATERNION_TOLERANCE))
    usable = [affine for affine in stated if affine is not None and is_invertible(affine)]
    if len(usable) < len(stated) or not all(_sizes_agree(affine, sizes, shape) for affine in usable):
        return None
    return usable


_SFORM = "the sform is used"


def _voxel_sizes(forms: NiftiForms, shape: tuple[int, int, int]) -> FloatArray | None:
    """Sizes by ``pixdim``, mm; 1 for an axis of one voxel without a size; None where another axis has none."""
    sizes = np.abs(np.array(forms.pixdim[1:], np.float64))
    bad = ~(np.isfinite(sizes) & (sizes > 0))
    if (bad & (np.array(shape) > 1)).any() or bad.all():
        return None
    sizes[bad] = 1.0
    return sizes


def _sform(forms: NiftiForms) -> FloatArray | None:
    affine = np.eye(4)
    affine[:3] = forms.rows
    return affine if np.isfinite(affine).all() else None


def _complete(affine: FloatArray | None, sizes: FloatArray | None, shape: tuple[int, int, int]) -> FloatArray | None:
    """The matrix if it is invertible, where necessary with a direction for one axis of a single voxel."""
    if affine is None or is_invertible(affine):
        return affine
    zero = np.flatnonzero(~affine[:3, :3].any(axis=0))
    if len(zero) != 1 or shape[zero[0]] > 1:
        return None
    axis = int(zero[0])
    normal = np.cross(affine[:3, (axis + 1) % 3], affine[:3, (axis + 2) % 3])
    if not normal.any():
        return None
    completed = affine.copy()
    completed[:3, axis] = normal / np.linalg.norm(normal) * (1.0 if sizes is None else sizes[axis])
    return completed if is_invertible(completed) else None


def _qform(forms: NiftiForms, sizes: FloatArray, tolerance: float) -> FloatArray | None:
    """Affine of the quaternion, as ``nifti_quatern_to_mat44`` of nifti1_io.c; None where it is invalid."""
    from nibabel.quaternions import quat2mat

    vector = np.array(forms.quaternion, np.float64)
    squared = float(vector @ vector)
    if not (np.isfinite(vector).all() and np.isfinite(forms.offset).all()) or squared > 1 + tolerance:
        return None
    a = 0.0 if squared > 1 - 1e-7 else float(np.sqrt(1 - squared))
    rotation = quat2mat((a, *vector))  # which normalises
    affine = np.eye(4)
    affine[:3, :3] = rotation * sizes * (1, 1, -1 if forms.pixdim[0] < 0 else 1)
    affine[:3, 3] = forms.offset
    return affine


def _without_orientation(forms: NiftiForms, sizes: FloatArray | None, shape: tuple[int, int, int]) -> Orientation:
    """Voxel sizes with the axes that nibabel assumes: to left, front and head, with the centre at the origin."""
    notes = []
    if sizes is None:
        sizes = np.abs(np.array(forms.pixdim[1:], np.float64))
        if not np.isfinite(sizes).all():
            return Orientation(np.full((4, 4), np.nan), ())
        sizes[sizes == 0] = 1.0
        notes.append(f"the header's voxel sizes are {mm(forms.pixdim[1:])}; {mm(sizes)} are assumed")
    stated = forms.qform_code > 0 or forms.sform_code > 0
    what = "the header's qform and sform are invalid" if stated else "the header states no orientation"
    notes.append(f"{what}; its axes are assumed to point to left, front and head, check left and right")
    affine = np.diag([-sizes[0], sizes[1], sizes[2], 1.0])
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    return Orientation(affine, tuple(notes))


def _sizes_agree(affine: FloatArray, sizes: FloatArray, shape: tuple[int, int, int]) -> bool:
    """Whether an affine has the voxel sizes of the header; a sheared one may state distances between slices instead."""
    several = np.array(shape) > 1
    lengths = _lengths(affine)
    if (np.abs(lengths / sizes - 1) <= SIZE_TOLERANCE)[several].all():
        return True
    unit = affine[:3, :3] / lengths
    sheared = np.abs(unit.T @ unit - np.eye(3)).max() > _SHEAR_TOLERANCE
    return bool(sheared and abs(abs(np.linalg.det(affine[:3, :3])) / sizes.prod() - 1) <= SIZE_TOLERANCE)


def is_invertible(affine: FloatArray) -> bool:
    """Whether the axes of an affine (4, 4) have lengths, and are not coplanar."""
    lengths = _lengths(affine)
    return bool((lengths > 0).all() and abs(np.linalg.det(affine[:3, :3] / lengths)) >= _SINGULAR)


def _lengths(affine: FloatArray) -> FloatArray:
    lengths: FloatArray = np.linalg.norm(affine[:3, :3], axis=0)
    return lengths


def mm(values: Any) -> str:
    """Lengths in words: ``0.7 x 0.7 x 5 mm``."""
    return " x ".join(f"{value:.4g}" for value in values) + " mm"
