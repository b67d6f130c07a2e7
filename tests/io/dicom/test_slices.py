"""Slices by their headers, and the grid that they form."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from oblique_series import COLUMNS, FRAMES, ORIGIN, ROWS, SPACING, STEP, VOXELS, write_series, write_slice

from s2vnet.errors import InputError
from s2vnet.io.dicom.series import read_series
from s2vnet.io.files import read_image

WriteFrames = Callable[..., None]


def test_a_tilted_gantry_gives_a_sheared_grid(tmp_path: Path) -> None:
    tilted = np.array([0.0, 0.4, 2.4])
    write_series(tmp_path, tilted)
    geometry = read_series(tmp_path).geometry
    np.testing.assert_allclose(geometry.affine_lps[:3, 2], tilted, atol=1e-6)


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (0, 2, 1, 4, 3)])
def test_frames_lie_where_each_says(tmp_path: Path, write_frames: WriteFrames, order: tuple[int, ...]) -> None:
    write_frames(tmp_path / "a.dcm", VOXELS[:, :, order], FRAMES[list(order)])
    volume = read_series(tmp_path)
    np.testing.assert_array_equal(volume.data[0], VOXELS)
    lps = volume.geometry.to_world([(0, 0, 0), (3, 0, 0), (0, 2, 0), (0, 0, 4)]) * (-1, -1, 1)
    np.testing.assert_allclose(
        lps, [ORIGIN, ORIGIN + 3 * 0.7 * ROWS, ORIGIN + 2 * 0.9 * COLUMNS, ORIGIN + 4 * STEP], atol=1e-5
    )


@pytest.mark.parametrize("places", [4, 6])
def test_more_or_fewer_places_than_frames_are_refused(tmp_path: Path, write_frames: WriteFrames, places: int) -> None:
    write_frames(tmp_path / "a.dcm", VOXELS, FRAMES)
    image = pydicom.dcmread(tmp_path / "a.dcm")
    groups = list(image.PerFrameFunctionalGroupsSequence)
    another = copy.deepcopy(groups[-1])
    another.PlanePositionSequence[0].ImagePositionPatient = (ORIGIN + 5 * STEP).tolist()
    image.PerFrameFunctionalGroupsSequence = [*groups, another][:places]
    image.save_as(tmp_path / "a.dcm")
    with pytest.raises(InputError, match=rf"a\.dcm: 5 frames, but positions of {places}; export it again"):
        read_series(tmp_path)


def test_a_slope_of_0_is_a_frame_of_one_value_but_none_of_the_first(tmp_path: Path, write_frames: WriteFrames) -> None:
    write_frames(tmp_path / "a.dcm", VOXELS, FRAMES, (1, 1, 0, 1, 1))
    np.testing.assert_array_equal(read_series(tmp_path).data[0], VOXELS * (1, 1, 0, 1, 1))
    write_frames(tmp_path / "a.dcm", VOXELS, FRAMES, (0, 1, 1, 1, 1))
    with pytest.raises(InputError, match=r"a\.dcm: "):
        read_series(tmp_path)


def test_a_missing_slice(tmp_path: Path) -> None:
    files = write_series(tmp_path)
    files[2].unlink()
    with pytest.raises(InputError, match=f"2.5 to 5 mm apart, widest after {files[1].name}; a slice is missing"):
        read_series(tmp_path)


def test_rounded_positions_are_even(tmp_path: Path) -> None:
    for k, noise in enumerate((0.0, 0.05, -0.05, 0.0)):
        write_slice(tmp_path / f"{k}.dcm", VOXELS[:, :, k], ORIGIN + (k * 2.5 + noise) * np.array([0, 0, 1]))
    assert read_series(tmp_path).geometry.spacing[2] == pytest.approx(2.5)


@pytest.mark.parametrize("count", [2, 5])
def test_a_slice_given_twice(tmp_path: Path, count: int) -> None:
    for k in range(count - 1):
        write_slice(tmp_path / f"{k}.dcm", VOXELS[:, :, k], ORIGIN + k * STEP)
    write_slice(tmp_path / "again.dcm", VOXELS[:, :, 0], ORIGIN)
    with pytest.raises(InputError, match=r"(0.dcm and again.dcm|again.dcm and 0.dcm) lie at the same position"):
        read_series(tmp_path)


@pytest.mark.parametrize("kind", ["size", "spacing"])
def test_slices_that_do_not_match(tmp_path: Path, kind: str) -> None:
    files = write_series(tmp_path)
    pixels = VOXELS[:5, :, 4] if kind == "size" else VOXELS[:, :, 4]
    write_slice(files[4], pixels, ORIGIN + 4 * STEP, spacing=SPACING if kind == "size" else (0.7, 0.8))
    with pytest.raises(InputError, match=f"and {files[4].name}: slices differ in size, pixel size or plane"):
        read_series(tmp_path)


def test_colour_is_refused(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.zeros((1, 6, 7, 3), np.uint8), isVector=True)
    sitk.WriteImage(image, str(tmp_path / "a.dcm"))
    with pytest.raises(InputError, match="colour images"):
        read_series(tmp_path)


def test_frames_whose_axes_are_not_told(tmp_path: Path, write_frames: Callable[..., None]) -> None:
    write_frames(tmp_path / "a.dcm", np.zeros((4, 3, 2), np.int16), [(0, 0, 0), (0, 0, 2)])
    image = pydicom.dcmread(tmp_path / "a.dcm")
    del image.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient
    image.save_as(tmp_path / "a.dcm")
    with pytest.raises(InputError, match="DICOM"):
        read_image(tmp_path)
