"""DICOM SEG: what is written comes back, also by a reader that knows nothing but the standard's attributes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from odd_headers import ODD_VALUES, SECRET, set_odd_values
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage

from s2vnet.errors import InputError
from s2vnet.io.dicom.series import read_series, series_files
from s2vnet.io.geometry import Geometry, LabelMap

pytest.importorskip("highdicom", reason="highdicom (the extra dicom) is not installed")

from s2vnet.io.dicom.seg import (
    PRIVATE_SCHEME,
    SNOMED_TERMS,
    check_segmentation,
    class_codes,
    read_segmentation,
    write_segmentation,
)

WriteSeries = Callable[..., None]
NAMES = {0: "background", 1: "liver", 2: "left kidney", 3: "portal and splenic vein", 4: "Tumour, primary"}
SHAPE = (7, 6, 5)
"""Columns, rows and slices."""
STRAIGHT = np.array([0.0, 0.0, 2.5])
SERIES = {
    "straight": {"step": STRAIGHT},
    "tilted": {"step": (0.0, 0.6, 2.5)},
    "reversed": {"step": -STRAIGHT},
    "sagittal": {"step": (-2.4, 0.7, 0.0), "cosines": (0.28, 0.96, 0, 0, 0, -1)},
    "frames": {},
}
"""By name, what `write_series` makes them of."""
VOXELS = np.zeros(SHAPE, np.int16)
PLACES = np.array([-30, 12.5, 100]) + np.array([0, 2, 1, 4, 3])[:, None] * STRAIGHT
"""Of frames, out of order, mm."""


@pytest.fixture(params=SERIES)
def series(
    request: pytest.FixtureRequest, tmp_path: Path, write_series: WriteSeries, write_frames: WriteSeries
) -> Path:
    """A series of seven by six pixels and five slices, in each way in which one can lie; or in one file."""
    folder = tmp_path / "series"
    folder.mkdir()
    if request.param == "frames":
        write_frames(folder / "a.dcm", VOXELS, PLACES)
    else:
        write_series(folder, VOXELS, **SERIES[request.param])
    return folder


@pytest.fixture
def labels(series: Path) -> LabelMap:
    """All classes but the last, and a slice without any."""
    data = np.random.default_rng(4).integers(0, 4, SHAPE).astype(np.uint8)
    data[:, :, 2] = 0
    return LabelMap(data, read_series(series).geometry)


def _by_hand(path: Path, geometry: Geometry, files: tuple[Path, ...]) -> npt.NDArray[np.uint8]:
    """Labels from the SEG's own attributes, by pydicom alone: every pixel lies where its frame's attributes say."""
    found, images = pydicom.dcmread(path), [pydicom.dcmread(file) for file in files]
    assert {image.SOPInstanceUID for image in images} >= {
        item.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        for item in found.PerFrameFunctionalGroupsSequence
    }
    shared = found.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    between_rows, between_columns = shared.PixelMeasuresSequence[0].PixelSpacing
    data = np.zeros(geometry.shape, np.uint8)
    frames = found.pixel_array.reshape(-1, found.Rows, found.Columns)
    for frame, item in zip(frames, found.PerFrameFunctionalGroupsSequence, strict=True):
        rows, columns = np.nonzero(frame)
        place = np.array(item.PlanePositionSequence[0].ImagePositionPatient, float)
        lps = place + np.outer(columns * between_columns, cosines[:3]) + np.outer(rows * between_rows, cosines[3:])
        voxels = geometry.to_voxel(lps * (-1, -1, 1))
        np.testing.assert_allclose(voxels, np.rint(voxels), atol=1e-4)
        number = item.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        data[tuple(np.rint(voxels).astype(int).T)] = number
    return data


def test_labels_come_back_and_lie_where_the_images_do(series: Path, labels: LabelMap, tmp_path: Path) -> None:
    path = tmp_path / "labels.dcm"
    write_segmentation(path, labels, NAMES, series)
    back, names = read_segmentation(path, series)
    assert np.array_equal(back.data, labels.data)
    assert names == {value: name for value, name in NAMES.items() if value}
    back.geometry.require_same_grid(labels.geometry, "read and written")
    files = series_files(series)
    assert np.array_equal(_by_hand(path, read_series(series).geometry, files), labels.data)
    found, image = pydicom.dcmread(path), pydicom.dcmread(files[0])
    assert found.Modality == "SEG"
    assert found.StudyInstanceUID == image.StudyInstanceUID
    assert found.FrameOfReferenceUID == image.FrameOfReferenceUID
    assert found.SeriesInstanceUID != image.SeriesInstanceUID
    assert {s.SegmentAlgorithmType for s in found.SegmentSequence} == {"AUTOMATIC"}
    write_segmentation(path, labels, NAMES, series, corrected=True)
    assert {s.SegmentAlgorithmType for s in pydicom.dcmread(path).SegmentSequence} == {"SEMIAUTOMATIC"}
    assert list(tmp_path.glob("*.dcm")) == [path]


def test_a_labelmap_object_has_the_same_labels_in_a_frame_per_slice(
    series: Path, labels: LabelMap, tmp_path: Path
) -> None:
    path = tmp_path / "labels.labelmap.dcm"
    write_segmentation(path, labels, NAMES, series, labelmap=True)
    back, names = read_segmentation(path, series)
    assert np.array_equal(back.data, labels.data)
    assert names == {value: name for value, name in NAMES.items() if value}
    found = pydicom.dcmread(path)
    assert (found.SOPClassUID, found.SegmentationType) == ("1.2.840.10008.5.1.4.1.1.66.7", "LABELMAP")
    planes = found.pixel_array.reshape(-1, found.Rows, found.Columns)
    assert {tuple(np.bincount(labels.data[:, :, k].ravel(), minlength=5)) for k in range(SHAPE[2]) if k != 2} <= {
        tuple(np.bincount(plane.ravel(), minlength=5)) for plane in planes
    }
    write_segmentation(path, LabelMap(np.zeros_like(labels.data), labels.geometry), NAMES, series, labelmap=True)
    assert not read_segmentation(path, series)[0].data.any()


def test_an_empty_result_comes_back_also_from_beside_the_images(series: Path, labels: LabelMap) -> None:
    path = series / "labels.dcm"
    write_segmentation(path, LabelMap(np.zeros_like(labels.data), labels.geometry), NAMES, series)
    assert not read_segmentation(path, series)[0].data.any()


def test_what_an_anonymiser_takes_out_may_be_missing(series: Path, labels: LabelMap, tmp_path: Path) -> None:
    path = tmp_path / "labels.dcm"
    names = ("PatientBirthDate", "StudyTime", "FrameOfReferenceUID", "SliceThickness", "Modality", "AccessionNumber")
    for file in series_files(series):
        image = pydicom.dcmread(file)
        for name in names:
            image.pop(name, None)
        image.save_as(file)
    assert check_segmentation(series) == ("FrameOfReferenceUID is missing; a new one is written",)
    write_segmentation(path, labels, NAMES, series)
    assert np.array_equal(read_segmentation(path, series)[0].data, labels.data)
    assert np.array_equal(_by_hand(path, labels.geometry, series_files(series)), labels.data)


def test_images_that_cannot_be_referred_to_are_refused_with_the_cause(
    series: Path, labels: LabelMap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**options: object) -> None:
        raise KeyError(SECRET)

    monkeypatch.setattr("highdicom.seg.Segmentation", fail)
    cause = r"cannot be referred to by a SEG object; write \.nii\.gz instead \(KeyError\)$"
    with pytest.raises(InputError, match=cause):
        check_segmentation(series)
    with pytest.raises(InputError, match=cause):
        write_segmentation(tmp_path / "labels.dcm", labels, NAMES, series)


@pytest.mark.parametrize("odd", ODD_VALUES)
def test_odd_headers_are_repaired_before_the_work(
    tmp_path: Path, write_series: WriteSeries, odd: str, capfd: pytest.CaptureFixture[str]
) -> None:
    series = tmp_path / "series"
    series.mkdir()
    write_series(series, VOXELS)
    set_odd_values(series, odd)
    notes = check_segmentation(series)
    geometry = read_series(series).geometry
    labels = LabelMap(np.random.default_rng(4).integers(0, 4, SHAPE).astype(np.uint8), geometry)
    write_segmentation(tmp_path / "labels.dcm", labels, NAMES, series)
    assert np.array_equal(read_segmentation(tmp_path / "labels.dcm", series)[0].data, labels.data)
    assert not any(SECRET in text for text in (*notes, *capfd.readouterr()))
    found = pydicom.dcmread(tmp_path / "labels.dcm")
    for item in found.PerFrameFunctionalGroupsSequence:
        (image,) = item.DerivationImageSequence[0].SourceImageSequence
        assert image.ReferencedSOPClassUID == ODD_VALUES[odd].get("SOPClassUID", CTImageStorage)


def test_segments_are_coded() -> None:
    side, liver = class_codes("liver")
    assert (side, liver.value, liver.scheme_designator) == (None, "10200004", "SCT")
    side, kidney = class_codes("left kidney")
    assert (side.value, kidney.value) == ("7771000", "64033007")
    assert class_codes("Right_Adrenal_Gland")[0].meaning == "Right"
    assert class_codes("portal and splenic vein")[1].meaning == "Portal vein"
    side, other = class_codes("Tumour, primary")
    assert (side, other.scheme_designator, other.meaning) == (None, PRIVATE_SCHEME, "Tumour, primary")
    names = (
        "gluteus_maximus_left",
        "gluteus_maximus_right",
        "Anterior",
        "tumor",
        "left",
    )  # qualifiers are no structures
    private = [class_codes(name)[1] for name in names]
    assert {code.scheme_designator for code in private} == {PRIVATE_SCHEME}
    assert len({code.value for code in private}) == len(names)
    assert all(len(code.value) <= 16 for code in private)
    for name, keyword in SNOMED_TERMS.items():
        assert class_codes(name)[1].value == getattr(codes.SCT, keyword).value


def test_what_cannot_be_written_is_said_and_leaves_nothing(series: Path, labels: LabelMap, tmp_path: Path) -> None:
    path = tmp_path / "labels.dcm"
    moved = labels.geometry.affine.copy()
    moved[0, 3] += 1
    other = LabelMap(labels.data, Geometry(labels.geometry.shape, moved))
    for wrong, names, message in (
        (other, NAMES, "and its labels"),
        (labels, {0: "background", 1: "liver"}, "label 2 has no name"),
        (labels, {**NAMES, 9: "nine"}, "not numbered 1, 2, 3"),
    ):
        with pytest.raises(InputError, match=message):
            write_segmentation(path, wrong, names, series)
    assert not list(tmp_path.glob("*.dcm"))


def test_what_is_no_segmentation_of_the_series_is_refused(
    series: Path, labels: LabelMap, tmp_path: Path, write_series: WriteSeries
) -> None:
    path, other = tmp_path / "labels.dcm", tmp_path / "other"
    other.mkdir()
    write_series(other, VOXELS, STRAIGHT)
    write_segmentation(path, labels, NAMES, series)
    with pytest.raises(InputError, match="not a SEG object of these images"):
        read_segmentation(path, other)
    with pytest.raises(InputError, match="not a SEG object of these images"):
        read_segmentation(series_files(series)[0], series)
    with pytest.raises(InputError, match="No such file"):
        read_segmentation(tmp_path / "none.dcm", series)
