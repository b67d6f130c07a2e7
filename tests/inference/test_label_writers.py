"""Endings of label files, and the formats that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from s2vnet.errors import InputError
from s2vnet.inference.label_writers import (
    LABEL_MAP_FORMATS,
    geometry_notes,
    is_dicom_output,
    is_label_file,
    is_rtstruct,
    label_stem,
    output_formats,
    require_format,
    save_result,
    write_result,
)
from s2vnet.io.files import read_labels, write_labels
from s2vnet.io.geometry import Geometry, LabelMap, Volume


@pytest.mark.parametrize(
    ("name", "stem", "dicom", "contours"),
    [
        ("a.b.nii.gz", "a.b", False, False),
        ("a.NRRD", "a", False, False),
        ("a.dcm", "a", True, False),
        ("a.labelmap.dcm", "a", True, False),
        ("a.rtstruct.dcm", "a", True, True),
    ],
)
def test_the_ending_is_the_format(name: str, stem: str, dicom: bool, contours: bool) -> None:
    path = Path(name)
    assert is_label_file(path)
    assert (label_stem(path), is_dicom_output(path), is_rtstruct(path)) == (stem, dicom, contours)


def test_other_endings_are_refused(tmp_path: Path) -> None:
    assert not is_label_file(Path("labels.txt"))
    for check in (label_stem, lambda path: require_format(path, tmp_path)):
        with pytest.raises(InputError, match="unknown image format"):
            check(Path("labels.txt"))


def test_dicom_formats_need_a_series(tmp_path: Path) -> None:
    assert output_formats(tmp_path / "a.nii.gz") == LABEL_MAP_FORMATS
    assert output_formats(tmp_path)[-1] == "rtstruct"
    with pytest.raises(InputError, match="an RT structure set belongs to a DICOM series"):
        require_format(Path("a.rtstruct.dcm"), tmp_path / "a.nii.gz")


def test_a_label_map_is_written(tmp_path: Path, phantom: tuple[Volume, LabelMap]) -> None:
    write_result(tmp_path / "labels.nrrd", phantom[1], {0: "background"}, tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_labels(tmp_path / "labels.nrrd").data, phantom[1].data)


@pytest.mark.parametrize("name", ["a.nii.gz", "A.NII", "a.nrrd", "a.mha", "a.dcm"])
@pytest.mark.parametrize("shear", [0.0, 1e-4, 0.2])
def test_sheared_nifti_is_said_to_be_closed_to_itk(tmp_path: Path, name: str, shear: float) -> None:
    affine = np.diag([-1.0, -1.0, 2.5, 1.0])
    affine[1, 2] = 2.5 * shear
    labels = LabelMap(np.ones((5, 6, 7), np.uint8), Geometry((5, 6, 7), affine))
    notes = geometry_notes(Path(name), labels.geometry)
    assert bool(notes) is (shear == 0.2 and "nii" in name.lower())
    if name.endswith(".dcm"):
        return
    write_labels(tmp_path / name.lower(), labels)
    if notes:
        with pytest.raises(RuntimeError, match="orthonormal"):
            sitk.ReadImage(str(tmp_path / name.lower()))
    else:
        assert sitk.ReadImage(str(tmp_path / name.lower())).GetSize() == (5, 6, 7)


NAMES = {0: "background", 1: "liver", 2: "spleen"}


def _fails(*args: object, **options: object) -> None:
    raise KeyError("Doe^Jane")


@pytest.mark.parametrize("name", ["labels.dcm", "labels.rtstruct.dcm", "labels.nrrd"])
def test_labels_land_beside_as_nifti_where_a_format_fails(
    name: str,
    tmp_path: Path,
    phantom: tuple[Volume, LabelMap],
    write_series: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    series = tmp_path / "series"
    series.mkdir()
    write_series(series, np.zeros(phantom[1].data.shape, np.int16))
    for function in ("seg.write_segmentation", "rtstruct.write_rtstruct"):
        monkeypatch.setattr(f"s2vnet.io.dicom.{function}", _fails)
    monkeypatch.setattr("s2vnet.io.itk.write", _fails)
    with pytest.raises(InputError, match="the labels are in ") as caught:
        save_result(tmp_path / name, phantom[1], NAMES, series)
    assert "Doe" not in str(caught.value)
    np.testing.assert_array_equal(read_labels(tmp_path / "labels.nii.gz").data, phantom[1].data)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.nii.gz", "series"]


def test_a_failed_nifti_has_no_other_place(tmp_path: Path, phantom: tuple[Volume, LabelMap]) -> None:
    with pytest.raises(InputError, match="cannot write"):
        save_result(tmp_path / "none" / "labels.nii.gz", phantom[1], NAMES, tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match="cannot write"):
        save_result(tmp_path / "none" / "labels.nrrd", phantom[1], NAMES, tmp_path / "a.nii.gz")
