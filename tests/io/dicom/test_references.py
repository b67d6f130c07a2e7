"""Series that derived objects refer to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from s2vnet.errors import InputError
from s2vnet.inference.label_writers import write_result
from s2vnet.io.dicom.patient_study import TYPE_2_ATTRIBUTES
from s2vnet.io.dicom.references import read_referenced_series, series_attributes
from s2vnet.io.dicom.seg import read_segmentation
from s2vnet.io.dicom.series import series_files, series_geometry
from s2vnet.io.geometry import LabelMap

VOXELS = np.zeros((4, 3, 5), np.int16)


@pytest.fixture
def series(tmp_path: Path, write_series: Callable[..., None]) -> Path:
    """A series of five files."""
    write_series(tmp_path, VOXELS)
    return tmp_path


def without(series: Path, *names: str) -> None:
    for file in series.iterdir():
        image = pydicom.dcmread(file)
        for name in names:
            image.pop(name, None)
        image.save_as(file)


def test_slices_and_headers_are_in_the_order_of_the_volume(series: Path) -> None:
    read = read_referenced_series(series)
    files = series_files(series)
    assert tuple(one.file for one in read.slices) == files
    assert [image.SOPInstanceUID for image in read.images] == [pydicom.dcmread(file).SOPInstanceUID for file in files]
    assert read.geometry.same_grid(series_geometry(series))
    assert read.frames is None


def test_frames_of_one_file_have_one_header(tmp_path: Path, write_frames: Callable[..., None]) -> None:
    write_frames(tmp_path / "a.dcm", VOXELS, np.array([0, 2, 1, 4, 3])[:, None] * (0, 0, 2.5))
    read = read_referenced_series(tmp_path)
    assert len(read.images) == 1
    assert read.frames == [0, 2, 1, 4, 3]


def test_missing_attributes_of_type_2_are_added_empty(series: Path) -> None:
    without(series, *TYPE_2_ATTRIBUTES)
    patient = read_referenced_series(series).patient
    assert all(not patient[name].value for name in TYPE_2_ATTRIBUTES)


def test_identifiers_of_the_file_itself_are_taken_from_its_meta_information(series: Path) -> None:
    expected = [image.SOPInstanceUID for image in read_referenced_series(series).images]
    without(series, "SOPInstanceUID", "SOPClassUID")
    read = read_referenced_series(series)
    assert [image.SOPInstanceUID for image in read.images] == expected
    assert read.notes == ()


def test_a_missing_frame_of_reference_is_made_and_one_of_several_is_chosen(series: Path) -> None:
    (first, *_) = series_files(series)
    image = pydicom.dcmread(first)
    kept, image.FrameOfReferenceUID = image.FrameOfReferenceUID, "1.2.3"
    image.save_as(first)
    read = read_referenced_series(series)
    assert {image.FrameOfReferenceUID for image in read.images} == {"1.2.3"} != {kept}
    assert read.notes == ("FrameOfReferenceUID differs between images; that of the first is written",)
    without(series, "FrameOfReferenceUID")
    read = read_referenced_series(series)
    assert len({image.FrameOfReferenceUID for image in read.images} - {"1.2.3", kept}) == 1
    assert read.notes == ("FrameOfReferenceUID is missing; a new one is written",)


@pytest.mark.parametrize("name", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_identifiers_that_an_anonymiser_removed_are_made(
    series: Path, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """An output refers to the images by their own identifiers, which are unique in the world."""
    before = read_referenced_series(series)
    without(series, name)
    read = read_referenced_series(series)
    assert len({image[name].value for image in read.images}) == 1
    assert [image.SOPInstanceUID for image in read.images] == [image.SOPInstanceUID for image in before.images]
    assert read.notes == (f"{name} is missing; a new one is written",)
    pytest.importorskip("highdicom", reason="highdicom (the extra dicom) is not installed")
    output = tmp_path_factory.mktemp("output") / "labels.dcm"
    labels = LabelMap(np.ones(read.geometry.shape, np.uint8), read.geometry)
    write_result(output, labels, {1: "liver"}, series)
    np.testing.assert_array_equal(read_segmentation(output, series)[0].data, labels.data)


def test_images_without_a_class_are_refused(series: Path) -> None:
    for file in series_files(series):
        image = pydicom.dcmread(file)
        del image.SOPClassUID, image.file_meta.MediaStorageSOPClassUID
        image.save_as(file)
    with pytest.raises(InputError, match="images without SOPClassUID, which the output needs"):
        read_referenced_series(series)


def test_images_without_an_identifier_of_their_own_get_one(
    series: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for file in series_files(series):
        image = pydicom.dcmread(file)
        del image.SOPInstanceUID, image.file_meta.MediaStorageSOPInstanceUID
        image.save_as(file)
    read = read_referenced_series(series)
    assert len({image.SOPInstanceUID for image in read.images}) == len(read.images)
    assert read.notes == ("SOPInstanceUID is missing; the output refers to images by new ones, which only it has",)
    pytest.importorskip("highdicom", reason="highdicom (the extra dicom) is not installed")
    output = tmp_path_factory.mktemp("output") / "labels.dcm"
    labels = LabelMap(np.ones(read.geometry.shape, np.uint8), read.geometry)
    write_result(output, labels, {1: "liver"}, series)
    found = pydicom.dcmread(output)
    assert found.NumberOfFrames == labels.data.shape[2]


def test_images_that_share_an_identifier_are_noted(series: Path) -> None:
    for file in series_files(series):
        image = pydicom.dcmread(file)
        image.SOPInstanceUID = "1.2.3"
        image.save_as(file)
    assert read_referenced_series(series).notes == (
        "several images have the same SOPInstanceUID; only positions tell which of them is meant",
    )


def test_attributes_are_those_of_the_images_without_reading_pixels(series: Path) -> None:
    image = pydicom.dcmread(next(series.iterdir()))
    (series / "0.txt").write_text("no image")
    found = series_attributes(series, ("SeriesInstanceUID", "Modality", "StationName"))
    assert found == {"SeriesInstanceUID": image.SeriesInstanceUID, "Modality": image.Modality}
    for file in series.glob("*.dcm"):
        file.write_bytes(file.read_bytes()[:200])
    assert series_attributes(series, ("SeriesInstanceUID",)) == {}
