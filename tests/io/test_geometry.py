"""Geometry: one affine, exact ways between orientations, and a stated tolerance."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2vnet.errors import InputError
from s2vnet.io.geometry import GRID_TOLERANCE, MAX_VOXELS, Geometry, LabelMap, Volume

SHAPE = (3, 4, 5)


def rotation(degrees: tuple[float, float, float]) -> npt.NDArray[np.float64]:
    (a, b, c), (d, e, f) = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    about_x = np.array([[1, 0, 0], [0, a, -d], [0, d, a]])
    about_y = np.array([[b, 0, e], [0, 1, 0], [-e, 0, b]])
    about_z = np.array([[c, -f, 0], [f, c, 0], [0, 0, 1]])
    turned: npt.NDArray[np.float64] = about_z @ about_y @ about_x
    return turned


def affine_of(
    axes: tuple[int, ...] = (0, 1, 2),
    signs: tuple[int, ...] = (1, 1, 1),
    degrees: tuple[float, float, float] = (0, 0, 0),
    spacing: tuple[float, float, float] = (0.7, 1.3, 4.0),
) -> npt.NDArray[np.float64]:
    """File axis ``n`` points along world axis ``axes[n]``, reversed by ``signs[n]``; then the whole is turned."""
    affine = np.eye(4)
    columns = np.eye(3)[:, list(axes)] * np.array(signs)
    affine[:3, :3] = rotation(degrees) @ columns * np.array(spacing)
    affine[:3, 3] = (10.0, -20.0, 30.5)
    return affine


ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_canonical_keeps_every_voxel_in_its_place(axes: tuple[int, ...], signs: tuple[int, ...]) -> None:
    geometry = Geometry(SHAPE, affine_of(axes, signs, (8, -5, 12)))
    values = np.arange(2 * 60).reshape(2, *SHAPE)
    ijk = np.argwhere(np.ones(SHAPE, bool))

    canonical, orientation = geometry.canonical()

    moved = orientation.apply(values)
    ras = orientation.apply_points(ijk)
    assert moved.shape[1:] == canonical.shape
    np.testing.assert_allclose(canonical.to_world(ras), geometry.to_world(ijk), atol=1e-12)
    np.testing.assert_array_equal(moved[(1, *ras.astype(int).T)], values[(1, *ijk.T)])
    np.testing.assert_array_equal(orientation.invert(moved), values)
    for axis in range(3):
        mirrored = orientation.mirrored(axis)
        np.testing.assert_array_equal(mirrored.apply(values), np.flip(moved, 1 + axis))
        np.testing.assert_array_equal(mirrored.invert(mirrored.apply(values)), values)
        np.testing.assert_allclose(mirrored.invert_points(mirrored.apply_points(ijk)), ijk)
        assert mirrored.mirrored(axis) == orientation
    np.testing.assert_array_equal(orientation.invert_points(ras), ijk)
    assert canonical.orientation.codes == "RAS"
    assert canonical.canonical()[1].axes == (0, 1, 2)
    assert not any(canonical.canonical()[1].flips)


@settings(max_examples=50, deadline=None)
@given(
    st.tuples(*[st.floats(-180, 180)] * 3),
    st.tuples(*[st.floats(0.1, 10)] * 3),
    st.tuples(*[st.integers(1, 6)] * 3),
)
def test_any_orthogonal_grid_has_an_exact_way_back(
    degrees: tuple[float, float, float], spacing: tuple[float, float, float], shape: tuple[int, int, int]
) -> None:
    geometry = Geometry(shape, affine_of(degrees=degrees, spacing=spacing))
    values = np.random.default_rng(0).integers(0, 9, shape)
    canonical, orientation = geometry.canonical()
    np.testing.assert_array_equal(orientation.invert(orientation.apply(values)), values)
    np.testing.assert_allclose(geometry.to_voxel(geometry.to_world(np.eye(3))), np.eye(3), atol=1e-9)
    assert canonical.voxel_volume_ml == pytest.approx(np.prod(spacing) / 1000)
    assert sorted(canonical.spacing) == pytest.approx(sorted(spacing))


def test_named_orientation_spacing_and_parts_of_the_affine() -> None:
    geometry = Geometry(SHAPE, affine_of((1, 0, 2), (-1, 1, -1)))
    assert geometry.orientation.codes == "PRI"
    assert geometry.spacing == pytest.approx((0.7, 1.3, 4.0))
    assert geometry.voxel_volume_ml == pytest.approx(0.7 * 1.3 * 4.0 / 1000)
    rebuilt = np.eye(4)
    rebuilt[:3, :3], rebuilt[:3, 3] = geometry.direction * np.array(geometry.spacing), geometry.origin
    np.testing.assert_allclose(rebuilt, geometry.affine)


def test_lps_and_ras_are_half_a_turn_about_the_axis_to_the_head_apart() -> None:
    geometry = Geometry(SHAPE, affine_of(degrees=(5, 6, 7)))
    np.testing.assert_array_equal(geometry.affine_lps[:2], -geometry.affine[:2])
    np.testing.assert_array_equal(geometry.affine_lps[2:], geometry.affine[2:])
    np.testing.assert_array_equal(Geometry.from_lps(SHAPE, geometry.affine_lps).affine, geometry.affine)


def test_the_affine_is_a_read_only_copy() -> None:
    affine = affine_of()
    geometry = Geometry(SHAPE, affine)
    affine[:] = 0
    assert geometry.affine[0, 0] == 0.7
    with pytest.raises(ValueError, match="read-only"):
        geometry.affine[0, 0] = 2


def test_rounding_noise_is_the_same_grid() -> None:
    geometry = Geometry(SHAPE, affine_of())
    noise = 1e-8 * np.random.default_rng(0).normal(size=(3, 4))
    noisy = affine_of()
    noisy[:3] += noise
    geometry.require_same_grid(Geometry(SHAPE, noisy), "image and label")
    geometry.require_same_grid(Geometry(SHAPE, affine_of().astype(np.float32)), "image and label")


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize(("part", "same"), [(0.5, True), (2.0, False)])
def test_the_tolerance_is_a_part_of_a_voxel_along_each_axis(axis: int, part: float, same: bool) -> None:
    shifted = affine_of()
    shifted[:3, 3] += part * GRID_TOLERANCE * shifted[:3, axis]
    assert Geometry(SHAPE, affine_of()).same_grid(Geometry(SHAPE, shifted)) is same


@pytest.mark.parametrize("decimals", [4, 5, 6])
def test_rounded_direction_cosines_are_the_same_grid(decimals: int) -> None:
    """What ITK makes orthonormal, and dcm2niix does not, of an oblique MR of 512 x 512 x 30."""
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    rounded = np.round(turn, decimals)
    u, _, v = np.linalg.svd(rounded)
    sizes, affines = (0.43, 0.43, 3.3), []
    for directions in (rounded, u @ v):
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = directions * sizes, (-110.1, -98.5, -40.8)
        affines.append(affine)
    a, b = (Geometry((512, 512, 30), affine) for affine in affines)
    assert a.same_grid(b)
    assert b.same_grid(a)
    assert not a.same_grid(Geometry((512, 512, 30), affines[0] * np.array([1.001, 1, 1, 1])))


def shifted() -> npt.NDArray[np.float64]:
    affine = affine_of()
    affine[2, 3] += 0.25
    return affine


@pytest.mark.parametrize(
    ("shape", "affine", "words"),
    [
        ((3, 4, 6), affine_of(), r"shape \(3, 4, 5\) against \(3, 4, 6\)"),
        (SHAPE, affine_of(signs=(-1, 1, 1)), "axes point to RAS against LAS"),
        (SHAPE, affine_of(spacing=(0.7, 1.3, 4.1)), "spacing 0.7 x 1.3 x 4 mm against 0.7 x 1.3 x 4.1 mm"),
        (SHAPE, shifted(), "corner voxels lie up to 0.25 mm apart"),
    ],
)
def test_grids_that_differ_are_refused_and_the_difference_named(
    shape: tuple[int, int, int], affine: npt.NDArray[np.float64], words: str
) -> None:
    with pytest.raises(InputError, match=f"^image and label of case 7: grids differ, {words}"):
        Geometry(SHAPE, affine_of()).require_same_grid(Geometry(shape, affine), "image and label of case 7")


def broken(row: int, column: int, value: float) -> npt.NDArray[np.float64]:
    affine = affine_of()
    affine[row, column] = value
    return affine


@pytest.mark.parametrize(
    ("shape", "affine", "words"),
    [
        ((3, 0, 5), np.eye(4), "holds no voxels"),
        ((3, -4, 5), np.eye(4), "holds no voxels"),
        ((3, 4), np.eye(4), "holds no voxels"),
        ((2048, 2048, 2049), np.eye(4), f"over the limit of {MAX_VOXELS}"),
        (SHAPE, np.eye(3), "not a finite 4x4"),
        (SHAPE, broken(0, 0, np.nan), "not a finite 4x4"),
        (SHAPE, broken(3, 0, 1), "not a finite 4x4"),
        (SHAPE, broken(2, 2, 0), "cannot be inverted"),
        (SHAPE, affine_of(axes=(0, 0, 2)), "cannot be inverted"),
    ],
)
def test_unusable_grids_are_refused(shape: tuple[int, int, int], affine: npt.NDArray[np.float64], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Geometry(shape, affine)


def test_the_largest_grid_is_allowed() -> None:
    assert Geometry((2048, 2048, 2048), np.eye(4)).shape == (2048, 2048, 2048)


def test_volume_keeps_float32_and_refuses_another_shape() -> None:
    geometry = Geometry(SHAPE, np.eye(4))
    data = np.zeros((1, *SHAPE), np.float32)
    assert Volume(data, geometry).data is data
    assert Volume(data.astype(np.int16), geometry).data.dtype == np.float32
    for wrong in (data[0], data[:0], data[..., :2]):
        with pytest.raises(InputError, match="must be"):
            Volume(wrong, geometry)


@pytest.mark.parametrize(
    ("highest", "stored", "kept"),
    [(255, np.int64, np.uint8), (256, ">i4", np.uint16), (3, np.uint16, np.uint16), (1, bool, np.uint8)],
)
def test_label_map_is_uint8_or_uint16(highest: int, stored: npt.DTypeLike, kept: npt.DTypeLike) -> None:
    data = np.zeros(SHAPE, stored)
    data[1, 2, 3] = highest
    labels = LabelMap(data, Geometry(SHAPE, np.eye(4)))
    assert labels.data.dtype == kept
    assert labels.data[1, 2, 3] == highest


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.full(SHAPE, -1), "run from -1 to -1"),
        (np.full(SHAPE, 65536), "must lie in 0..65535"),
        (np.zeros(SHAPE), "must be integers, not float64"),
        (np.zeros((1, *SHAPE), np.uint8), "must have the grid's shape"),
    ],
)
def test_label_map_refuses_what_is_no_class_number(data: npt.NDArray[np.uint8], words: str) -> None:
    with pytest.raises(InputError, match=words):
        LabelMap(data, Geometry(SHAPE, np.eye(4)))


def test_importing_geometry_loads_no_reader_and_no_torch() -> None:
    code = "import sys, s2vnet.io.geometry; print({'torch', 'nibabel', 'SimpleITK'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
