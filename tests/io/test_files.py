"""Files: what is written is read back on exactly the same grid, or the old file stays."""

from __future__ import annotations

import gc
import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
import SimpleITK as sitk
from disks import files_limited_to, fill

from s2vnet.errors import InputError
from s2vnet.io.files import (
    ENDINGS,
    count_voxels,
    read_geometry,
    read_image,
    read_labels,
    read_lazy_image,
    write_image,
    write_labels,
)
from s2vnet.io.geometry import Geometry, LabelMap, Volume
from s2vnet.utils.atomic_write import atomic_write

SHAPE = (3, 4, 5)
NIFTI = (".nii", ".nii.gz")
Array = npt.NDArray[np.float64]
LabelsOn = Callable[..., LabelMap]
MakePhantom = Callable[..., tuple[Volume, LabelMap]]


@pytest.fixture
def collect_open_files() -> Iterator[None]:
    """Close files that a reader or writer left open within the test, whose filter of warnings holds for them."""
    yield
    gc.collect()


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("ending", ENDINGS)
def test_labels_come_back_exactly_on_the_same_grid(
    tmp_path: Path, ending: str, grid: tuple[str, Array], dtype: Any, labels_on: LabelsOn
) -> None:
    name, affine = grid
    labels = labels_on(affine, dtype)
    write_labels(tmp_path / f"a{ending}", labels)
    back = read_labels(tmp_path / f"a{ending}")
    assert back.data.dtype == dtype
    np.testing.assert_array_equal(back.data, labels.data)
    labels.geometry.require_same_grid(back.geometry, name)
    image = read_image(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(image.data[0], labels.data)
    image.geometry.require_same_grid(back.geometry, "image and labels of one file")


@pytest.mark.parametrize("ending", ENDINGS)
def test_voxels_of_all_frames_are_counted_by_the_header(tmp_path: Path, ending: str, make_phantom: MakePhantom) -> None:
    for channels in (1, 3):
        image = make_phantom(channels=channels)[0]
        write_image(tmp_path / f"a{ending}", image)
        assert count_voxels(tmp_path / f"a{ending}") == image.data.size
    sitk.WriteImage(sitk.Image([3, 4, 5, 6], sitk.sitkInt16), tmp_path / f"b{ending}")
    assert count_voxels(tmp_path / f"b{ending}") == 360


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_images_grid_passes_to_its_labels_through_any_format(
    tmp_path: Path, ending: str, phantom: tuple[Volume, LabelMap]
) -> None:
    image, labels = phantom
    write_image(tmp_path / f"image{ending}", image)
    read = read_image(tmp_path / f"image{ending}")
    np.testing.assert_array_equal(read.data, image.data)
    write_labels(tmp_path / f"labels{ending}", LabelMap(labels.data, read.geometry))
    back = read_labels(tmp_path / f"labels{ending}").geometry
    np.testing.assert_allclose(back.affine, read.geometry.affine, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(nib.aff2axcodes(back.affine), tuple(image.geometry.orientation.codes))


@pytest.mark.parametrize("ending", ENDINGS)
def test_channels_come_back_as_frames(tmp_path: Path, ending: str, make_phantom: MakePhantom) -> None:
    image, _ = make_phantom(SHAPE, channels=3)
    write_image(tmp_path / f"a{ending}", image)
    back = read_image(tmp_path / f"a{ending}", frames_as_channels=True)
    np.testing.assert_array_equal(back.data, image.data)
    with pytest.raises(InputError, match="3 frames where one 3D image is needed"):
        read_image(tmp_path / f"a{ending}")
    with pytest.raises(InputError, match="3 frames where one 3D image is needed"):
        read_labels(tmp_path / f"a{ending}")


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("shape", [(6, 7, 1), (1, 7, 6), (1, 1, 1)])
def test_a_single_slice_works(
    tmp_path: Path, ending: str, shape: tuple[int, int, int], make_phantom: MakePhantom
) -> None:
    image, labels = make_phantom(shape)
    write_image(tmp_path / f"image{ending}", image)
    write_labels(tmp_path / f"labels{ending}", labels)
    np.testing.assert_array_equal(read_image(tmp_path / f"image{ending}").data, image.data)
    read_labels(tmp_path / f"labels{ending}").geometry.require_same_grid(image.geometry, "slice")


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_2d_file_is_one_slice(tmp_path: Path, ending: str) -> None:
    values = np.arange(12, dtype=np.int16).reshape(3, 4)
    if ending in NIFTI:
        nib.Nifti1Image(values, np.eye(4)).to_filename(tmp_path / f"a{ending}")
    else:
        sitk.WriteImage(sitk.GetImageFromArray(values.T), str(tmp_path / f"a{ending}"))
    volume = read_image(tmp_path / f"a{ending}")
    assert volume.data.shape == (1, 3, 4, 1)
    np.testing.assert_array_equal(volume.data[0, ..., 0], values)


def test_4d_with_one_frame_is_3d(tmp_path: Path, oblique: Array) -> None:
    values = np.arange(60, dtype=np.int16).reshape(SHAPE)
    nib.Nifti1Image(values[..., None], oblique).to_filename(tmp_path / "a.nii.gz")
    image = sitk.JoinSeries([sitk.GetImageFromArray(values.transpose(2, 1, 0))])
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    for file in ("a.nii.gz", "a.nrrd"):
        np.testing.assert_array_equal(read_image(tmp_path / file).data[0], values)
        np.testing.assert_array_equal(read_labels(tmp_path / file).data, values)


def test_one_file_per_channel_in_order_on_one_grid(tmp_path: Path, make_phantom: MakePhantom) -> None:
    image, _ = make_phantom(SHAPE, channels=2)
    files = [tmp_path / "case_0000.nii.gz", tmp_path / "case_0001.mha"]
    for file, channel in zip(files, image.data, strict=True):
        write_image(file, Volume(channel[None], image.geometry))
    np.testing.assert_array_equal(read_image(files).data, image.data)
    np.testing.assert_array_equal(read_image(files[::-1]).data, image.data[::-1])
    flipped = image.geometry.affine @ np.diag([-1, 1, 1, 1])
    write_image(files[1], Volume(image.data[1:], Geometry(SHAPE, flipped)))
    with pytest.raises(InputError, match=r"case_0000.nii.gz and .*case_0001.mha: grids differ, axes point to"):
        read_image(files)
    with pytest.raises(InputError, match="no image file given"):
        read_image([])


def test_both_readers_agree_on_one_image_in_every_format(tmp_path: Path, labels_on: LabelsOn, oblique: Array) -> None:
    labels = labels_on(oblique)
    for ending in ENDINGS:
        write_labels(tmp_path / f"a{ending}", labels)
    volumes = [read_image(tmp_path / f"a{ending}") for ending in ENDINGS]
    for a, b in itertools.combinations(volumes, 2):
        np.testing.assert_array_equal(a.data, b.data)
        a.geometry.require_same_grid(b.geometry, "two formats")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # nibabel leaves its file open
@pytest.mark.usefixtures("collect_open_files")
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("old", [True, False])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, ending: str, old: bool, labels_on: LabelsOn, oblique: Array, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"a{ending}"
    if old:
        write_labels(path, labels_on(oblique))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    values = np.random.default_rng(0).integers(0, 255, (40, 40, 40)).astype(np.uint8)
    labels = LabelMap(values, Geometry((40, 40, 40), np.eye(4)))
    with pytest.raises(InputError) as refused, files_limited_to(8000):
        write_labels(path, labels)
    assert str(refused.value).startswith(f"cannot write {path}: ")
    assert "\n" not in str(refused.value)
    assert capfd.readouterr() == ("", "")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # nibabel leaves its file open
@pytest.mark.usefixtures("collect_open_files")
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_disk_that_fills_up_meanwhile(
    disk: Callable[[int], Path], ending: str, labels_on: LabelsOn, oblique: Array
) -> None:
    folder = disk(1 << 19)
    write_labels(folder / f"a{ending}", labels_on(oblique))
    fill(folder, left=1 << 14)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    values = np.random.default_rng(0).integers(0, 255, (40, 40, 40)).astype(np.uint8)
    with pytest.raises(InputError, match=r"^cannot write .*; choose an existing, writable folder with space$"):
        write_labels(folder / f"a{ending}", LabelMap(values, Geometry(values.shape, np.eye(4))))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), atomic_write(path) as temporary:  # noqa: PT012
        temporary.write_text("new, half writ")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("ending", [".mhd", ".nhdr"])
def test_a_header_and_its_data_file_are_moved_together(
    tmp_path: Path, ending: str, labels_on: LabelsOn, oblique: Array
) -> None:
    for dtype in (np.uint8, np.uint16):
        labels = labels_on(oblique, dtype)
        write_labels(tmp_path / f"a{ending}", labels)
        assert len(names(tmp_path)) == 2
        np.testing.assert_array_equal(read_labels(tmp_path / f"a{ending}").data, labels.data)


def test_folders_that_cannot_be_written(tmp_path: Path, labels_on: LabelsOn) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "taken.nii.gz").mkdir()
    for path in (tmp_path / "none" / "a.nii.gz", tmp_path / "file" / "a.mha", tmp_path / "taken.nii.gz"):
        with pytest.raises(InputError, match=f"^cannot write {path}: .*; choose an existing, writable folder"):
            write_labels(path, labels_on(np.eye(4)))
    assert names(tmp_path) == ["file", "taken.nii.gz"]


def test_a_folder_without_write_permission(tmp_path: Path, labels_on: LabelsOn) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    try:
        (folder / "probe").touch()
    except PermissionError:
        with pytest.raises(InputError, match="Permission denied"):
            write_labels(folder / "a.nii.gz", labels_on(np.eye(4)))
    else:
        pytest.skip("this user may write anywhere")


def test_what_is_no_image_is_refused_without_a_word_of_the_reader_s(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.nii").write_text("not an image at all " * 40)
    with pytest.raises(InputError, match="not a readable NIfTI image"):
        read_image(tmp_path / "a.nii")
    assert capfd.readouterr() == ("", "")


def test_a_grid_is_known_from_the_header(
    tmp_path: Path, make_phantom: MakePhantom, write_series: Callable[..., None]
) -> None:
    volume, _ = make_phantom()
    for ending in ENDINGS:
        write_image(tmp_path / f"image{ending}", volume)
        assert read_geometry(tmp_path / f"image{ending}").same_grid(volume.geometry)
    (tmp_path / "series").mkdir()
    write_series(tmp_path / "series", np.zeros((5, 4, 3), np.int16))
    assert read_geometry(tmp_path / "series").same_grid(read_image(tmp_path / "series").geometry)


@pytest.mark.parametrize("modality", ["CT", "MR", "PT", ""])
def test_an_image_has_the_modality_of_its_dicom_header(
    write_series: Callable[..., None], tmp_path: Path, modality: str
) -> None:
    series = tmp_path / "series"
    series.mkdir()
    write_series(series, np.zeros((8, 8, 3)))
    for file in series.iterdir():
        header = pydicom.dcmread(file)
        header.Modality = modality
        header.save_as(file)
    shutil.make_archive(str(series), "zip", series)
    for path in (series, tmp_path / "series.zip"):
        assert read_image(path).modality == read_lazy_image(path, fill_nonfinite=0.0).modality == (modality or None)


def test_frames_of_one_file_and_several_channels_have_a_modality_and_other_files_none(
    write_frames: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / "frames").mkdir()
    write_frames(tmp_path / "frames" / "a.dcm", np.zeros((8, 8, 3), np.int16), [(0, 0, 2 * k) for k in range(3)])
    assert read_image(tmp_path / "frames").modality == "MR"
    assert read_lazy_image([tmp_path / "frames"] * 2).modality == "MR"
    write_image(tmp_path / "a.nii.gz", read_image(tmp_path / "frames"))
    assert read_image(tmp_path / "a.nii.gz").modality is None
