"""Images in memory become volumes and label maps, and come back as they were, on every kind of grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from s2vnet.errors import InputError
from s2vnet.io.convert import as_label_map, as_lazy, as_volume, to_nibabel, to_simpleitk
from s2vnet.io.files import read_image, write_image
from s2vnet.io.geometry import Geometry, LabelMap, Volume

SHAPE = (3, 4, 5)
LIBRARIES = {"nibabel": to_nibabel, "SimpleITK": to_simpleitk}
AFFINE = np.diag([0.8, 0.9, 2.5, 1])


@pytest.fixture
def on_grid(grid: tuple[str, Any]) -> Geometry:
    return Geometry(SHAPE, grid[1])


def noise(channels: int = 1) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(0).normal(0, 100, (channels, *SHAPE)).astype(np.float32)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_comes_back_as_it_was(on_grid: Geometry, library: str, channels: int) -> None:
    if library == "SimpleITK" and is_sheared(on_grid):
        pytest.skip("ITK's images have no shear")
    volume = Volume(noise(channels), on_grid)
    back = as_volume(LIBRARIES[library](volume))
    np.testing.assert_array_equal(back.data, volume.data)
    assert back.geometry.same_grid(on_grid)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_labels_come_back_as_they_were(on_grid: Geometry, library: str, dtype: Any) -> None:
    if library == "SimpleITK" and is_sheared(on_grid):
        pytest.skip("ITK's images have no shear")
    labels = LabelMap(np.arange(60).reshape(SHAPE).astype(dtype), on_grid)
    back = as_label_map(LIBRARIES[library](labels))
    np.testing.assert_array_equal(back.data, labels.data)
    assert back.data.dtype == dtype
    assert back.geometry.same_grid(on_grid)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])
def test_a_library_s_image_of_a_file_is_what_read_image_gives(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"image{ending}"
    write_image(path, Volume(noise(), Geometry(SHAPE, AFFINE)))
    image = nib.load(path) if ending == ".nii.gz" else sitk.ReadImage(str(path))
    expected, converted = read_image(path), as_volume(image)
    np.testing.assert_array_equal(converted.data, expected.data)
    np.testing.assert_array_equal(converted.geometry.affine, expected.geometry.affine)


def test_slope_and_intercept_are_applied() -> None:
    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(SHAPE), AFFINE)
    image.header.set_slope_inter(2, -1000)
    loaded = nib.Nifti1Image.from_bytes(image.to_bytes())
    np.testing.assert_array_equal(as_volume(loaded).data[0], loaded.get_fdata())


def test_an_array_has_channels_first_and_keeps_its_type() -> None:
    one = as_lazy(noise()[0].astype(np.int16), AFFINE)
    assert [channel.stored.dtype for channel in one.channels] == [np.int16]
    np.testing.assert_array_equal(as_volume(noise(2), AFFINE).data, noise(2))
    np.testing.assert_array_equal(one.geometry.affine, AFFINE)


def test_a_float32_array_is_not_copied() -> None:
    array = noise()
    assert np.shares_memory(as_volume(array, AFFINE).data, array)


def test_nan_is_refused_or_filled() -> None:
    array = noise()
    array[0, 1, 2, 3] = np.nan
    with pytest.raises(InputError, match="1 of 60 voxels are NaN"):
        as_volume(array, AFFINE)
    assert as_volume(array, AFFINE, fill_nonfinite=-1000).data[0, 1, 2, 3] == -1000


REFUSED: dict[str, tuple[Any, Any, str]] = {
    "array without an affine": (noise(), None, "needs its affine"),
    "two dimensions": (noise()[0, 0], AFFINE, r"\(I, J, K\)"),
    "singular affine": (noise(), np.diag([0.0, 1, 1, 1]), "cannot be inverted"),
    "affine of another shape": (noise(), np.eye(3), "4x4"),
    "complex": (noise().astype(np.complex64), AFFINE, "grey-value"),
    "text": (np.array([[["a"]]]), AFFINE, "grey-value"),
    "complex of nibabel": (nib.Nifti1Image(noise()[0].astype(np.complex64), AFFINE), None, "grey-value"),
    "affine beside nibabel": (nib.Nifti1Image(noise()[0], AFFINE), AFFINE, "its own affine"),
    "affine beside SimpleITK": (sitk.Image(3, 4, 5, sitk.sitkInt16), AFFINE, "its own affine"),
    "affine beside a volume": (Volume(noise(), Geometry(SHAPE, AFFINE)), AFFINE, "its own affine"),
    "nibabel without an affine": (nib.Nifti1Image(noise()[0], None), None, "affine"),
    "complex of SimpleITK": (sitk.Image([3, 4, 5], sitk.sitkComplexFloat32), None, "grey-value"),
    "a path": ("image.nii.gz", None, "read_image"),
    "a list": ([[[0.0]]], AFFINE, "list is no image"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_image_is_refused_in_one_line(name: str) -> None:
    image, affine, message = REFUSED[name]
    with pytest.raises(InputError, match=message) as raised:
        as_volume(image, affine)
    assert "\n" not in str(raised.value)


def test_labels_are_integers_of_one_channel() -> None:
    whole = as_label_map(np.full(SHAPE, 3.0), AFFINE)
    assert whole.data.dtype == np.uint8
    assert as_label_map(whole) is whole
    assert as_label_map(np.ones(SHAPE, bool), AFFINE).data.max() == 1
    assert as_label_map(np.full(SHAPE, 2.9999), AFFINE).data.min() == 3  # as of a file with slope and intercept
    for labels, message in [
        (np.full(SHAPE, 0.5), "not an integer"),
        (np.full(SHAPE, np.nan), "NaN"),
        (np.full(SHAPE, 1e30), "must lie in 0..65535"),
        (np.zeros((2, *SHAPE), int), "2 channels"),
    ]:
        with pytest.raises(InputError, match=message):
            as_label_map(labels, AFFINE)


def is_sheared(grid: Geometry) -> bool:
    return not np.allclose(grid.direction.T @ grid.direction, np.eye(3), atol=1e-6)
