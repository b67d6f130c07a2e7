"""Geometry of a volume: shape, affine and orientation. Imports numpy only.

Voxel indices are ``i j k`` in file axis order; the world is RAS+ in mm (NIfTI's convention,
https://nipy.org/nibabel/coordinate_systems.html). DICOM, NRRD and MetaImage use LPS, converted by
:meth:`Geometry.from_lps` and :attr:`Geometry.affine_lps` only.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from s2vnet.errors import InputError
from s2vnet.io.nifti_forms import NiftiForms, is_invertible, mm

Shape = tuple[int, int, int]
FloatArray = npt.NDArray[np.float64]
Region = tuple[slice, slice, slice]
"""Block of voxels along i, j, k."""
_Scalar = TypeVar("_Scalar", bound=np.generic)

MAX_VOXELS = 2**33
"""Largest number of voxels of a header, checked before anything is allocated (2048 cubed, or 512 x 512 x 32768)."""

GRID_TOLERANCE = 0.05
"""Largest distance between corner voxels of equal grids, in voxels along each axis.

Direction cosines of four decimals, which scanners write, move the corner of 512 pixels by 0.03 voxels when another
program makes them orthonormal.
"""
MAX_MM = 1e9
"""Largest position and voxel size of a header, and the inverse of the smallest size; beyond it, distances overflow."""
MAX_COSINE = 2e-3
"""Largest cosine between axes that ITK takes for orthogonal in a NIfTI file."""
SPACING_TOLERANCE = 1e-3
"""Relative difference of voxel sizes that is named as the difference between two grids."""

_LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Orientation:
    """Axis permutation and flips from file axes to the closest RAS axes, without interpolation."""

    axes: Shape
    """``axes[c]`` is the file axis that becomes canonical axis ``c``."""
    flips: tuple[bool, bool, bool]
    """Whether canonical axis ``c`` is opposite to its file axis."""
    shape: Shape
    """Shape (I, J, K) of the file grid."""

    @property
    def codes(self) -> str:
        """Directions of the file axes, e.g. ``"LPS"``: axis i to the left, j to the back, k to the head."""
        names = {a: "RAS"[c] if not f else "LPI"[c] for c, (a, f) in enumerate(zip(self.axes, self.flips, strict=True))}
        return "".join(names[a] for a in range(3))

    def mirrored(self, axis: int) -> Orientation:
        """Orientation with canonical axis `axis` flipped, for a header that states it wrongly."""
        flips = [flip != (c == axis) for c, flip in enumerate(self.flips)]
        return replace(self, flips=(flips[0], flips[1], flips[2]))

    def apply(self, array: npt.NDArray[_Scalar]) -> npt.NDArray[_Scalar]:
        """View (..., R, A, S) of an array (..., I, J, K); its strides may be negative."""
        lead = array.ndim - 3
        moved = array.transpose(*range(lead), *(lead + a for a in self.axes))
        return np.flip(moved, self._flipped(lead))

    def invert(self, array: npt.NDArray[_Scalar]) -> npt.NDArray[_Scalar]:
        """View (..., I, J, K) of an array (..., R, A, S): ``invert(apply(x))`` is ``x``."""
        lead = array.ndim - 3
        back = (lead + self.axes.index(a) for a in range(3))
        return np.flip(array, self._flipped(lead)).transpose(*range(lead), *back)

    def apply_points(self, ijk: npt.ArrayLike) -> FloatArray:
        """Canonical voxel coordinates (N, 3) of file voxel coordinates (N, 3)."""
        moved = np.asarray(ijk, np.float64)[:, list(self.axes)]
        return np.where(self.flips, self._last() - moved, moved)

    def invert_points(self, ras: npt.ArrayLike) -> FloatArray:
        """File voxel coordinates (N, 3) of canonical voxel coordinates (N, 3)."""
        points = np.asarray(ras, np.float64)
        return np.where(self.flips, self._last() - points, points)[:, [self.axes.index(a) for a in range(3)]]

    def _flipped(self, lead: int) -> tuple[int, ...]:
        return tuple(lead + c for c in range(3) if self.flips[c])

    def _last(self) -> FloatArray:
        return np.array([self.shape[a] - 1 for a in self.axes], np.float64)


@dataclass(frozen=True, eq=False)
class Geometry:
    """Grid of a volume. Compare with :meth:`same_grid`.

    Raises:
        InputError: no voxels, more than ``MAX_VOXELS``, or an affine that is not finite or cannot be inverted.
    """

    shape: Shape
    """Voxels (I, J, K) along the file's axes."""
    affine: FloatArray
    """(4, 4) float64, read-only copy: voxel (i, j, k, 1) -> world (x, y, z, 1), RAS+ mm."""
    nifti_forms: NiftiForms | None = None
    """What the NIfTI header says of its orientation, to be written with labels of this grid; None for other files."""
    notes: tuple[str, ...] = ()
    """What a user should know of the file's header, one line each."""

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        affine = np.array(self.affine, np.float64)
        if len(shape) != 3 or min(shape) < 1:
            raise InputError(f"shape {shape} holds no voxels along three axes; export the image again")
        if math.prod(shape) > MAX_VOXELS:
            raise InputError(f"shape {shape} is over the limit of {MAX_VOXELS} voxels; crop it or correct its header")
        _check_affine(affine)
        affine.flags.writeable = False
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    @classmethod
    def from_lps(cls, shape: Shape, affine: npt.ArrayLike) -> Geometry:
        """Geometry of an affine (4, 4) voxel -> LPS+ mm, as in DICOM, NRRD and MetaImage."""
        return cls(shape, _LPS_RAS @ np.asarray(affine, np.float64))

    @classmethod
    def from_codes(cls, shape: Shape, spacing: Sequence[float], codes: str) -> Geometry:
        """Geometry of axes along the world's, with the origin in voxel (0, 0, 0).

        Args:
            shape: voxels (I, J, K).
            spacing: voxel size in mm along i, j, k.
            codes: where the axes i, j, k point to, e.g. ``"LPS"``.
        """
        affine = np.zeros((4, 4))
        affine[3, 3] = 1
        for axis, (letter, size) in enumerate(zip(codes, spacing, strict=True)):
            affine["RASLPI".index(letter) % 3, axis] = size if letter in "RAS" else -size
        return cls(shape, affine)

    @property
    def affine_lps(self) -> FloatArray:
        """Affine (4, 4) voxel -> LPS+ mm."""
        affine: FloatArray = _LPS_RAS @ self.affine
        return affine

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along i, j, k."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return i, j, k

    @property
    def origin(self) -> FloatArray:
        """World position (3,) of the centre of voxel (0, 0, 0), mm."""
        return self.affine[:3, 3].copy()

    @property
    def direction(self) -> FloatArray:
        """Unit vectors of the axes i, j, k in the world, as columns (3, 3)."""
        return self.affine[:3, :3] / np.array(self.spacing, np.float64)

    @property
    def is_sheared(self) -> bool:
        """Whether axes are not orthogonal, as those of a series from a tilted gantry."""
        cosines = self.direction.T @ self.direction - np.eye(3)
        return bool(np.abs(cosines).max() > MAX_COSINE)

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of a voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    @property
    def orientation(self) -> Orientation:
        """Permutation and flips of :meth:`canonical`."""
        from nibabel.orientations import io_orientation

        axes = io_orientation(self.affine)  # per file axis: (canonical axis, +1 or -1)
        r, a, s = (int(np.flatnonzero(axes[:, 0] == c)[0]) for c in range(3))
        return Orientation((r, a, s), (axes[r, 1] < 0, axes[a, 1] < 0, axes[s, 1] < 0), self.shape)

    def to_world(self, ijk: npt.ArrayLike) -> FloatArray:
        """World positions (N, 3) in mm of voxel coordinates (N, 3)."""
        world: FloatArray = np.asarray(ijk, np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3]
        return world

    def to_voxel(self, xyz: npt.ArrayLike) -> FloatArray:
        """Voxel coordinates (N, 3), not rounded, of world positions (N, 3) in mm."""
        offsets = np.asarray(xyz, np.float64) - self.affine[:3, 3]
        return np.asarray(np.linalg.solve(self.affine[:3, :3], offsets.T).T, np.float64)

    def corner_distance(self, other: Geometry) -> float:
        """Largest distance in mm between the world positions of this grid's corner voxels by both affines."""
        corners = self._corners()
        return float(np.linalg.norm(self.to_world(corners) - other.to_world(corners), axis=1).max())

    def same_grid(self, other: Geometry) -> bool:
        """Whether both have the same shape and, within ``GRID_TOLERANCE``, the same corner voxels."""
        if self.shape != other.shape:
            return False
        corners = self._corners()
        offsets = np.abs(self.to_voxel(other.to_world(corners)) - corners)
        return float(offsets.max()) <= GRID_TOLERANCE

    def require_same_grid(self, other: Geometry, what: str) -> None:
        """Raise :class:`InputError` that starts with ``what`` and states the difference, unless the grids are equal."""
        if not self.same_grid(other):
            raise InputError(f"{what}: grids differ, {self._difference(other)}; resample one onto the other")

    def canonical(self) -> tuple[Geometry, Orientation]:
        """Geometry of the same voxels along the closest RAS axes, and the orientation that converts to it."""
        orientation = self.orientation
        columns = self.affine[:3, list(orientation.axes)]
        flips = np.array(orientation.flips)
        shape = tuple(self.shape[a] for a in orientation.axes)
        affine = np.eye(4)
        affine[:3, :3] = np.where(flips, -columns, columns)
        affine[:3, 3] = self.affine[:3, 3] + columns @ np.where(flips, np.array(shape) - 1, 0)
        r, a, s = shape
        return Geometry((r, a, s), affine), orientation

    def _corners(self) -> FloatArray:
        return np.array(list(itertools.product(*((0, n - 1) for n in self.shape))), np.float64)

    def _difference(self, other: Geometry) -> str:
        codes, other_codes = self.orientation.codes, other.orientation.codes
        if self.shape != other.shape:
            return f"shape {self.shape} against {other.shape}"
        if codes != other_codes:
            return f"axes point to {codes} against {other_codes}"
        if not np.allclose(self.spacing, other.spacing, rtol=SPACING_TOLERANCE, atol=0):
            return f"spacing {mm(self.spacing)} against {mm(other.spacing)}"
        return f"corner voxels lie up to {self.corner_distance(other):.3g} mm apart"


@dataclass(frozen=True, eq=False)
class Volume:
    """Image channels on one grid.

    Raises:
        InputError: the shape of ``data`` is not the grid's.
    """

    data: npt.NDArray[np.float32]
    """(C, I, J, K); converted to float32, without a copy where it is float32 already."""
    geometry: Geometry
    modality: str | None = None
    """Modality by a DICOM header, such as ``CT`` or ``MR``; None for other files, or where it states none."""

    def __post_init__(self) -> None:
        if self.data.ndim != 4 or self.data.shape[0] < 1 or self.data.shape[1:] != self.geometry.shape:
            raise InputError(f"image array {self.data.shape} must be (channels, *{self.geometry.shape})")
        object.__setattr__(self, "data", self.data.astype(np.float32, copy=False))


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Class of each voxel; 0 is background.

    Raises:
        InputError: the shape of ``data`` is not the grid's, its type not an integer, or values lie outside 0..65535.
    """

    data: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
    """(I, J, K); uint8 and uint16 are kept, other integers become uint8 where they fit, else uint16."""
    geometry: Geometry

    def __post_init__(self) -> None:
        if self.data.shape != self.geometry.shape:
            raise InputError(f"label array {self.data.shape} must have the grid's shape {self.geometry.shape}")
        if self.data.dtype.kind not in "biu":
            raise InputError(f"labels must be integers, not {self.data.dtype}")
        if self.data.dtype not in (np.uint8, np.uint16):
            object.__setattr__(self, "data", _small_integers(self.data))


def _small_integers(data: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    low, high = int(data.min()), int(data.max())
    if low < 0 or high > np.iinfo(np.uint16).max:
        raise InputError(f"label values run from {low} to {high}; they must lie in 0..65535")
    native = data.astype(data.dtype.newbyteorder("="), copy=False)
    return native.astype(np.uint8) if high <= np.iinfo(np.uint8).max else native.astype(np.uint16)


def _check_affine(affine: FloatArray) -> None:
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or not np.allclose(affine[3], (0, 0, 0, 1)):
        raise InputError("the affine is not a finite 4x4 voxel-to-world matrix; correct the image's header")
    if np.abs(affine).max() > MAX_MM:
        raise InputError(f"the affine has values beyond {MAX_MM:.0e} mm; correct the image's header")
    norms = np.linalg.norm(affine[:3, :3], axis=0)
    if norms.min() * MAX_MM < 1 or not is_invertible(affine):
        raise InputError(f"the affine cannot be inverted (voxel sizes {mm(norms)}); correct the image's header")
