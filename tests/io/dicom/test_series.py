"""DICOM folders: one evenly spaced series becomes a volume at the places that its files state."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from oblique_series import COLUMNS, FRAMES, ORIGIN, ROWS, STEP, VOXELS, write_series, write_slice

from s2vnet.errors import InputError
from s2vnet.io.dicom.series import is_series, read_series, select_series, series_files
from s2vnet.io.files import read_geometry, read_image, read_labels, write_labels
from s2vnet.io.geometry import LabelMap

WriteFrames = Callable[..., None]


def test_a_series_is_a_volume_at_the_places_its_files_state(tmp_path: Path) -> None:
    files = write_series(tmp_path)
    (tmp_path / "notes.txt").write_text("not DICOM")

    volume = read_series(tmp_path)

    np.testing.assert_array_equal(volume.data[0], VOXELS - 1024)
    lps = volume.geometry.to_world([(0, 0, 0), (3, 0, 0), (0, 2, 0), (0, 0, 4)]) * (-1, -1, 1)
    expected = [ORIGIN, ORIGIN + 3 * 0.7 * ROWS, ORIGIN + 2 * 0.9 * COLUMNS, ORIGIN + 4 * STEP]
    np.testing.assert_allclose(lps, expected, atol=1e-5)
    assert series_files(tmp_path) == tuple(files)


def test_a_folder_is_an_image_and_its_labels_go_to_nifti(tmp_path: Path) -> None:
    folder = tmp_path / "series"
    folder.mkdir()
    write_series(folder)
    volume = read_image(folder)
    write_labels(tmp_path / "a.nii.gz", LabelMap((volume.data[0] > 0).astype(np.uint8), volume.geometry))
    read_labels(tmp_path / "a.nii.gz").geometry.require_same_grid(volume.geometry, "labels of a series")
    assert read_image([folder, folder]).data.shape == (2, 7, 6, 5)


def test_each_slice_has_its_own_intercept(tmp_path: Path) -> None:
    for k in range(3):
        write_slice(tmp_path / f"{k}.dcm", VOXELS[:, :, k], ORIGIN + k * STEP, intercept=-10 * k)
    np.testing.assert_array_equal(read_series(tmp_path).data[0], VOXELS[:, :, :3] - np.array([0, 10, 20]))


def test_a_single_slice_works(tmp_path: Path) -> None:
    write_slice(tmp_path / "a.dcm", VOXELS[:, :, 0], ORIGIN)
    volume = read_series(tmp_path)
    np.testing.assert_array_equal(volume.data[0, :, :, 0], VOXELS[:, :, 0] - 1024)
    assert volume.geometry.shape == (7, 6, 1)


def test_several_series_are_named_and_one_can_be_picked(tmp_path: Path) -> None:
    write_series(tmp_path, uid="1.2.1")
    files = write_series(tmp_path, -STEP, uid="1.2.2")
    with pytest.raises(InputError, match=r"2 DICOM series: 1 \(CT, 5 files\), 2 \(CT, 5 files\); choose with --series"):
        read_image(tmp_path)
    assert series_files(tmp_path, series="1.2.2") == tuple(files[::-1])
    np.testing.assert_array_equal(read_series(tmp_path, series="1.2.2").data[0], VOXELS[:, :, ::-1] - 1024)
    with pytest.raises(InputError, match=r"no DICOM series 1\.2\.3 in this folder"):
        read_series(tmp_path, series="1.2.3")


def test_a_chosen_series_is_a_folder_of_its_own(tmp_path: Path) -> None:
    study = tmp_path / "study"
    study.mkdir()
    write_series(study, uid="1.2.1")
    write_series(study, -STEP, uid="1.2.2")
    for number, uid in (("1", "1.2.1"), ("2", "1.2.2")):
        for chosen in (number, uid):
            with select_series(study, chosen) as folder:
                found, expected = read_image(folder), read_series(study, series=uid)
                assert np.array_equal(found.data, expected.data)
                found.geometry.require_same_grid(expected.geometry, "chosen")
            assert not folder.exists()
    with select_series(study, None) as same:
        assert same == study
    with pytest.raises(InputError, match=r"no DICOM series 3 in this folder; there is 1 \(CT, 5 files\), 2"):
        select_series(study, "3").__enter__()
    with pytest.raises(InputError, match="chooses from a DICOM folder"):
        select_series(study / "x.nii.gz", "1").__enter__()


def test_refusals_hold_nothing_of_the_patient(tmp_path: Path) -> None:
    write_series(tmp_path, uid="1.2.1")
    for file in write_series(tmp_path, uid="1.2.2"):
        image = pydicom.dcmread(file)
        image.PatientName, image.PatientID, image.SeriesDescription = "Doe^John", "4711", "Doe follow-up"
        image.save_as(file)
    with pytest.raises(InputError) as refused:
        read_image(tmp_path)
    assert not any(word in str(refused.value) for word in ("Doe", "John", "4711", "follow", "1.2.2"))


def test_frames_have_slopes_and_a_tilt_of_their_own(tmp_path: Path, write_frames: WriteFrames) -> None:
    slopes, tilted = (1, 2, 0.5, 3, 4), np.array([0.0, 0.6, 2.5])
    write_frames(tmp_path / "a.dcm", VOXELS, ORIGIN + np.arange(5)[:, None] * tilted, slopes)
    volume = read_series(tmp_path)
    np.testing.assert_allclose(volume.data[0], VOXELS * slopes, rtol=1e-6)
    np.testing.assert_allclose(volume.geometry.affine_lps[:3, 2], tilted, atol=1e-6)


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ((0, 1, 2, 4, 5), "2.5 to 5 mm apart, widest after frame 3; a slice is missing"),
        ((0, 1, 2, 3, 3), "frame 4 and frame 5 lie at the same position; keep one"),
        ((0, 1, 2, 0, 1), r"lie at the same position \(so do 2 pairs: several phases, echoes"),
    ],
)
def test_frames_that_are_no_stack(
    tmp_path: Path, write_frames: WriteFrames, places: tuple[int, ...], message: str
) -> None:
    write_frames(tmp_path / "a.dcm", VOXELS, ORIGIN + np.array(places)[:, None] * STEP)
    with pytest.raises(InputError, match=message):
        read_series(tmp_path)


def test_frames_without_places_or_in_several_files(tmp_path: Path, write_frames: WriteFrames) -> None:
    write_frames(tmp_path / "a.dcm", VOXELS, FRAMES)
    image = pydicom.dcmread(tmp_path / "a.dcm")
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = "1.2.9.2"
    image.save_as(tmp_path / "b.dcm")
    with pytest.raises(InputError, match="2 files of a series, some with many frames; keep one"):
        read_series(tmp_path)
    (tmp_path / "b.dcm").unlink()
    del image.PerFrameFunctionalGroupsSequence
    image.save_as(tmp_path / "a.dcm")
    with pytest.raises(InputError, match=r"a\.dcm: frames without a position each; export them as single files"):
        read_series(tmp_path)


@pytest.mark.parametrize("shared", ["none", "empty", "some"])
def test_frames_may_have_all_functional_groups_of_their_own(
    tmp_path: Path, write_frames: WriteFrames, shared: str
) -> None:
    slopes = (2, 1, 0.5, 3, 4)
    write_frames(tmp_path / "a.dcm", VOXELS, FRAMES, slopes)
    expected = read_series(tmp_path)
    image = pydicom.dcmread(tmp_path / "a.dcm")
    groups = image.SharedFunctionalGroupsSequence[0]
    for frame in image.PerFrameFunctionalGroupsSequence:
        frame.PlaneOrientationSequence, frame.PixelMeasuresSequence = (
            groups.PlaneOrientationSequence,
            groups.PixelMeasuresSequence,
        )
    del image.SharedFunctionalGroupsSequence
    if shared != "none":
        image.SharedFunctionalGroupsSequence = [pydicom.Dataset()] if shared == "some" else []
    image.save_as(tmp_path / "a.dcm")
    found = read_series(tmp_path)
    np.testing.assert_allclose(found.data, expected.data, rtol=1e-6)
    np.testing.assert_allclose(found.data[0], VOXELS * slopes, rtol=1e-6)
    assert found.geometry.same_grid(expected.geometry)


def test_a_file_of_frames_is_a_series_by_itself(tmp_path: Path, write_frames: WriteFrames) -> None:
    write_frames(tmp_path / "a.dcm", VOXELS, FRAMES)
    (tmp_path / "slices").mkdir()
    write_series(tmp_path / "slices")
    (tmp_path / "text.dcm").write_text("no image")
    assert is_series(tmp_path / "a.dcm")
    assert not is_series(next((tmp_path / "slices").iterdir()))
    assert not is_series(tmp_path / "text.dcm")
    np.testing.assert_array_equal(read_image(tmp_path / "a.dcm").data[0], VOXELS)
    assert read_geometry(tmp_path / "a.dcm").same_grid(read_series(tmp_path / "a.dcm").geometry)
    with pytest.raises(InputError, match="a single DICOM file; name the folder of its series"):
        read_image(next((tmp_path / "slices").iterdir()))


def test_frames_without_a_preamble_are_read(tmp_path: Path, write_frames: WriteFrames) -> None:
    write_frames(tmp_path / "a.dcm", VOXELS, FRAMES)
    content = (tmp_path / "a.dcm").read_bytes()
    assert content[128:132] == b"DICM"
    (tmp_path / "a.dcm").write_bytes(content[132:])
    np.testing.assert_array_equal(read_series(tmp_path).data[0], VOXELS)


@pytest.mark.parametrize("modality", ["SEG", "RTDOSE"])
def test_what_was_made_of_a_scan_is_passed_over(tmp_path: Path, modality: str) -> None:
    write_series(tmp_path)
    write_slice(tmp_path / "other.dcm", VOXELS[:, :, 0], ORIGIN, uid="1.2.7")
    image = pydicom.dcmread(tmp_path / "other.dcm")
    image.Modality = modality
    image.save_as(tmp_path / "other.dcm")
    assert read_series(tmp_path).data.shape == (1, 7, 6, 5)


def test_a_series_without_images_is_passed_over(tmp_path: Path) -> None:
    write_series(tmp_path)
    report = pydicom.Dataset()
    report.SOPClassUID, report.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.481.3", "1.2.9.1"
    report.SeriesInstanceUID, report.Modality = "1.2.9", "RTSTRUCT"
    report.file_meta = pydicom.dataset.FileMetaDataset()
    report.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    report.save_as(tmp_path / "structures.dcm", enforce_file_format=True)
    assert read_series(tmp_path).data.shape == (1, 7, 6, 5)


def test_folders_without_a_series(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="no such folder"):
        read_series(tmp_path / "none")
    (tmp_path / "notes.txt").write_bytes(b"hello")
    with pytest.raises(InputError, match=f"^{tmp_path}: no DICOM images in this folder"):
        read_image(tmp_path)
    (tmp_path / "a.dcm").write_bytes(b"hello")
    with pytest.raises(InputError, match=r"a\.dcm: not a readable DICOM image"):
        read_image(tmp_path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("keep", [0, 140, 0.3, 0.5, -10])
@pytest.mark.parametrize("index", [0, 2, 4])
def test_a_truncated_file_at_the_end_of_the_stack_too(
    tmp_path: Path, index: int, keep: float, capfd: pytest.CaptureFixture[str]
) -> None:
    files = write_series(tmp_path)
    whole = files[index].read_bytes()
    files[index].write_bytes(whole[: int(len(whole) * keep) if 0 < keep < 1 else int(keep)])
    for read in (read_series, series_files):
        with pytest.raises(InputError, match=f"^{files[index]}: not a readable DICOM image"):
            read(tmp_path)
    assert capfd.readouterr().err == ""


def test_pixels_that_cannot_be_decoded(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    files = write_series(tmp_path)
    dataset = pydicom.dcmread(files[2])
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
    header = b"\xff\x4f\xff\x51" + struct.pack(">HH8LHBBB", 41, 0, 7, 6, 0, 0, 7, 6, 0, 0, 1, 15, 1, 1)
    dataset.PixelData = pydicom.encaps.encapsulate([header + b"\xff\xd9 no JPEG at all"])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(files[2])
    with pytest.raises(InputError, match="pixels cannot be read"):
        read_series(tmp_path)
    assert capfd.readouterr().err == ""
