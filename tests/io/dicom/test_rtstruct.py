"""RT structure sets: contours filled again by a reader of their own give the labels, wherever the series lies."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from matplotlib.path import Path as Outline
from odd_headers import ODD_VALUES, SECRET, set_odd_values

from s2vnet.errors import InputError
from s2vnet.io.dicom.rtstruct import check_rtstruct, mask_contours, write_rtstruct
from s2vnet.io.dicom.series import read_series, series_files
from s2vnet.io.geometry import Geometry, LabelMap

WriteSeries = Callable[..., None]
NAMES = {0: "background", 1: "Leber, ganz", 2: "Nière", 3: "not there"}
COLOURS = {1: "#ff0010", 2: "#00ff00", 3: "#0000ff"}
SHAPE = (24, 20, 5)
SERIES = {
    "straight": {},
    "tilted": {"step": (0.0, 0.6, 2.5)},
    "reversed": {"step": (0.0, 0.0, -2.5)},
    "sagittal": {"step": (-2.4, 0.7, 0.0), "cosines": (0.28, 0.96, 0, 0, 0, -1)},
    "frames": {},
}
"""By name, what `write_series` makes them of."""
PLACES = np.array([-30, 12.5, 100]) + np.array([0, 2, 1, 4, 3])[:, None] * (0, 0, 2.5)
"""Of frames, out of order, mm."""
Mask = npt.NDArray[np.bool_]


@pytest.fixture(params=SERIES)
def series(
    request: pytest.FixtureRequest, tmp_path: Path, write_series: WriteSeries, write_frames: WriteSeries
) -> Path:
    """A series in each way in which one can lie."""
    folder = tmp_path / "series"
    folder.mkdir()
    voxels = np.zeros(SHAPE, np.int16)
    if request.param == "frames":
        write_frames(folder / "a.dcm", voxels, PLACES)
    else:
        write_series(folder, voxels, **SERIES[request.param])
    return folder


def _drawn() -> npt.NDArray[np.uint8]:
    """A ball with a hole and an island in it, up to the border; noise with every corner case; an empty slice."""
    data = np.zeros(SHAPE, np.uint8)
    i, j, _ = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    radius = np.broadcast_to(np.hypot(i - 9, j - 9), SHAPE)
    data[(radius < 10) & ~((radius > 3) & (radius < 6))] = 1
    noise = np.random.default_rng(1).random(SHAPE) < 0.5
    data[16:][noise[16:]] = 2
    data[:, :, 2] = 0
    return data


def _filled(outline: npt.NDArray[np.float64], shape: tuple[int, int]) -> Mask:
    """Which pixel centres a polygon (N, 2) holds."""
    centres = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 2)
    inside: Mask = Outline(np.concatenate([outline, outline[:1]]), closed=True).contains_points(centres).reshape(shape)
    return inside


def _pixels(contour: Any, images: dict[str, Any]) -> npt.NDArray[np.float64]:
    """A contour in pixels (column, row) of the image that it names, by that image's own attributes."""
    reference = contour.ContourImageSequence[0]
    image = images[reference.ReferencedSOPInstanceUID]
    place = image
    orientation, measures = image, image
    if "ReferencedFrameNumber" in reference:
        place = image.PerFrameFunctionalGroupsSequence[reference.ReferencedFrameNumber - 1].PlanePositionSequence[0]
        shared = image.SharedFunctionalGroupsSequence[0]
        orientation, measures = shared.PlaneOrientationSequence[0], shared.PixelMeasuresSequence[0]
    cosines = np.array(orientation.ImageOrientationPatient, float)
    offsets = np.array(contour.ContourData, float).reshape(-1, 3) - np.array(place.ImagePositionPatient, float)
    assert np.abs(offsets @ np.cross(cosines[:3], cosines[3:])).max() < 1e-3, "off the image's plane"
    rows_mm, columns_mm = measures.PixelSpacing
    return np.column_stack([offsets @ cosines[:3] / columns_mm, offsets @ cosines[3:] / rows_mm])


def _by_hand(path: Path, series: Path, geometry: Geometry) -> npt.NDArray[np.uint8]:
    """Labels from the contours, by pydicom and matplotlib alone."""
    found, data = pydicom.dcmread(path), np.zeros(geometry.shape, np.uint8)
    images = {image.SOPInstanceUID: image for image in map(pydicom.dcmread, series.iterdir())}
    for region in found.ROIContourSequence:
        for contour in region.get("ContourSequence", []):
            assert contour.ContourGeometricType == "CLOSED_PLANAR"
            assert contour.NumberOfContourPoints * 3 == len(contour.ContourData)
            first = np.array(contour.ContourData[:3], float) * (-1, -1, 1)
            k = round(float(geometry.to_voxel(first[None])[0, 2]))
            inside = _filled(_pixels(contour, images), geometry.shape[:2])
            assert not data[:, :, k][inside].any(), "contours overlap"
            data[:, :, k][inside] = region.ReferencedROINumber
    return data


def test_contours_filled_again_are_the_labels(series: Path, tmp_path: Path) -> None:
    path, geometry = tmp_path / "labels.rtstruct.dcm", read_series(series).geometry
    labels = LabelMap(_drawn(), geometry)
    write_rtstruct(path, labels, NAMES, COLOURS, series)
    assert np.array_equal(_by_hand(path, series, geometry), labels.data)  # no voxel differs, boundary or not
    found, images = pydicom.dcmread(path), [pydicom.dcmread(file) for file in series_files(series)]
    assert found.Modality == "RTSTRUCT"
    assert found.StudyInstanceUID == images[0].StudyInstanceUID
    assert found.SeriesInstanceUID != images[0].SeriesInstanceUID
    (frame,) = found.ReferencedFrameOfReferenceSequence
    (study,) = frame.RTReferencedStudySequence
    (referred,) = study.RTReferencedSeriesSequence
    assert frame.FrameOfReferenceUID == found.FrameOfReferenceUID == images[0].FrameOfReferenceUID
    assert study.ReferencedSOPInstanceUID == images[0].StudyInstanceUID
    assert referred.SeriesInstanceUID == images[0].SeriesInstanceUID
    assert len(referred.ContourImageSequence) == SHAPE[2]
    assert {r.ReferencedSOPInstanceUID for r in referred.ContourImageSequence} == {i.SOPInstanceUID for i in images}
    regions = found.StructureSetROISequence
    assert [(r.ROINumber, r.ROIName) for r in regions] == [(k, name) for k, name in NAMES.items() if k]
    assert {r.ROIGenerationAlgorithm for r in regions} == {"AUTOMATIC"}
    assert [list(r.ROIDisplayColor) for r in found.ROIContourSequence] == [[255, 0, 16], [0, 255, 0], [0, 0, 255]]
    assert "ContourSequence" not in found.ROIContourSequence[2]


@pytest.mark.parametrize("odd", ODD_VALUES)
def test_odd_headers_are_repaired_before_the_work(
    tmp_path: Path, write_series: WriteSeries, odd: str, capfd: pytest.CaptureFixture[str]
) -> None:
    series, path = tmp_path / "series", tmp_path / "labels.rtstruct.dcm"
    series.mkdir()
    write_series(series, np.zeros(SHAPE, np.int16))
    set_odd_values(series, odd)
    notes = check_rtstruct(series)
    geometry = read_series(series).geometry
    write_rtstruct(path, LabelMap(_drawn(), geometry), NAMES, COLOURS, series)
    assert not any(SECRET in text for text in (*notes, *capfd.readouterr()))
    found = pydicom.dcmread(path)
    assert len(found.StructureSetROISequence) == 3


def test_an_archive_does_as_well_and_a_correction_is_stated(
    tmp_path: Path, write_series: WriteSeries, recwarn: pytest.WarningsRecorder
) -> None:
    series, path = tmp_path / "series", tmp_path / "labels.rtstruct.dcm"
    series.mkdir()
    write_series(series, np.zeros(SHAPE, np.int16))
    with zipfile.ZipFile(tmp_path / "scan.zip", "w") as archive:
        for file in series.iterdir():
            archive.write(file, file.name)
    labels = LabelMap(_drawn(), read_series(series).geometry)
    write_rtstruct(path, labels, NAMES, COLOURS, tmp_path / "scan.zip", corrected=True)
    assert np.array_equal(_by_hand(path, series, labels.geometry), labels.data)
    assert {r.ROIGenerationAlgorithm for r in pydicom.dcmread(path).StructureSetROISequence} == {"SEMIAUTOMATIC"}


def test_a_contour_holds_nearly_the_area_of_its_pixels() -> None:
    i, j = np.ogrid[:80, :80]
    disc = np.hypot(i - 40, j - 40) < 30
    (outline,) = mask_contours(disc)
    x, y = outline.T
    area = abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2
    assert area == pytest.approx(disc.sum(), rel=0.001)
    assert mask_contours(disc[:10, :10]) == []


def test_a_contour_longer_than_explicit_vr_allows_comes_back(tmp_path: Path, write_series: WriteSeries) -> None:
    series, path = tmp_path / "series", tmp_path / "labels.rtstruct.dcm"
    series.mkdir()
    shape = (120, 120, 1)
    write_series(series, np.zeros(shape, np.int16))
    data = np.zeros(shape, np.uint8)
    data[::2], data[:, ::60] = 1, 1
    labels = LabelMap(data, read_series(series).geometry)
    write_rtstruct(path, labels, NAMES, COLOURS, series)
    assert np.array_equal(_by_hand(path, series, labels.geometry), data)


def test_what_cannot_be_written_is_said_and_leaves_nothing(tmp_path: Path, write_series: WriteSeries) -> None:
    series, path = tmp_path / "series", tmp_path / "labels.rtstruct.dcm"
    series.mkdir()
    write_series(series, np.zeros(SHAPE, np.int16))
    labels = LabelMap(_drawn(), read_series(series).geometry)
    moved = labels.geometry.affine.copy()
    moved[0, 3] += 1
    for wrong, names, message in (
        (LabelMap(labels.data, Geometry(SHAPE, moved)), NAMES, "and its labels"),
        (labels, {1: "liver"}, "label 2 has no name"),
    ):
        with pytest.raises(InputError, match=message):
            write_rtstruct(path, wrong, names, COLOURS, series)
    assert not path.exists()
