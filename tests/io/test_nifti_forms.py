"""Contradicting and damaged NIfTI headers: the grid that is chosen, the note, and the header of the labels."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from s2vnet.errors import InputError
from s2vnet.io import nifti
from s2vnet.io.files import is_portable_nifti, read_geometry, read_image, read_labels, write_labels
from s2vnet.io.geometry import LabelMap
from s2vnet.io.nifti import to_bytes
from s2vnet.io.nifti_forms import NiftiForms, choose_affine

SHAPE = (5, 6, 7)
SIZES = (2.0, 3.0, 4.0)
TRUE = ((-2.0, 0.0, 0.0, 5.0), (0.0, -3.0, 0.0, 6.0), (0.0, 0.0, 4.0, 7.0))
"""Rows of the grid that every header here means: LPS."""
UNIT = ((-1.0, 0.0, 0.0, 5.0), (0.0, -1.0, 0.0, 6.0), (0.0, 0.0, 1.0, 7.0))
ZERO = ((0.0,) * 4,) * 3
NAN = ((np.nan,) * 4,) * 3
TURN = (0.0, 0.0, 1.0)
GOOD = NiftiForms(1, 1, TURN, (5.0, 6.0, 7.0), (1.0, *SIZES), TRUE)
SHEARED = ((-2.0, 0.0, 0.0, 5.0), (0.0, -3.0, 1.0, 6.0), (0.0, 0.0, 4.0, 7.0))

Affine = npt.NDArray[np.float64]


def _rows(affine: Affine) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(round(value, 4) + 0.0 for value in row) for row in affine[:3].tolist())


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({}, None),
        ({"sform_code": 0, "rows": ZERO}, None),
        ({"qform_code": 0, "quaternion": (0.0,) * 3}, None),
        ({"rows": UNIT}, "sform has voxels of 1 x 1 x 1 mm, its qform and pixdim of 2 x 3 x 4 mm; the qform is used"),
        ({"rows": UNIT, "sform_code": 4}, "the qform is used"),
        ({"rows": ZERO}, "sform is not an invertible matrix; the qform is used"),
        ({"rows": NAN}, "sform is not an invertible matrix; the qform is used"),
        ({"rows": (TRUE[0], TRUE[0], TRUE[2])}, "sform is not an invertible matrix; the qform is used"),
        ({"quaternion": (1.0, 1.0, 1.0)}, "qform is invalid; the sform is used"),
        ({"quaternion": (np.nan, 0.0, 0.0)}, "qform is invalid; the sform is used"),
        ({"offset": (np.inf, 0.0, 0.0)}, "qform is invalid; the sform is used"),
        ({"quaternion": (0.0, 0.0, 1.0000001)}, None),
        ({"quaternion": (0.0, 0.0, 5.0), "sform_code": 0}, "not a unit quaternion; it is normalised"),
        ({"quaternion": (0.0, 0.0, 5.0), "rows": ZERO}, "not an invertible matrix; the header's qform is not a unit"),
        ({"pixdim": (1.0, 0.0, 0.0, 0.0)}, "voxel sizes 0 x 0 x 0 mm are invalid; the sform is used"),
        ({"pixdim": (1.0, np.nan, 3.0, 4.0)}, "voxel sizes nan x 3 x 4 mm are invalid; the sform is used"),
        ({"pixdim": (0.0, *SIZES)}, None),
        ({"pixdim": (1.0, -2.0, 3.0, 4.0)}, None),
        ({"pixdim": (1.0, 2.01, 3.0, 4.0)}, None),
        ({"pixdim": (1.0, 1.0, 1.0, 1.0), "qform_code": 0}, "no valid qform; the sform is used"),
    ],
)
def test_the_usable_form_is_chosen_with_a_note(changes: dict[str, Any], note: str | None) -> None:
    chosen = choose_affine(GOOD._replace(**changes), SHAPE)
    assert _rows(chosen.affine) == TRUE
    assert len(chosen.notes) == (note is not None)
    assert note is None or note in chosen.notes[0]


@pytest.mark.parametrize(
    ("changes", "sizes", "note"),
    [
        ({"qform_code": 0, "sform_code": 0}, SIZES, "states no orientation"),
        ({"quaternion": (np.nan,) * 3, "rows": ZERO}, SIZES, "qform and sform are invalid"),
        ({"qform_code": 0, "rows": NAN}, SIZES, "qform and sform are invalid"),
        ({"qform_code": 0, "sform_code": 0, "pixdim": (1.0, 0.0, 3.0, 4.0)}, (1.0, 3.0, 4.0), "1 x 3 x 4 mm are"),
    ],
)
def test_without_a_usable_form_the_voxel_sizes_are_left(
    changes: dict[str, Any], sizes: tuple[float, ...], note: str
) -> None:
    chosen = choose_affine(GOOD._replace(**changes), SHAPE)
    assert tuple(np.linalg.norm(chosen.affine[:3, :3], axis=0)) == sizes
    assert note in chosen.notes[0]
    assert "check left and right" in chosen.notes[-1]


def test_a_sheared_sform_is_kept_whichever_distance_pixdim_states() -> None:
    for size in (4.0, 17**0.5):
        chosen = choose_affine(GOOD._replace(rows=SHEARED, pixdim=(1.0, 2.0, 3.0, size)), SHAPE)
        assert (_rows(chosen.affine), chosen.notes) == (SHEARED, ())


@pytest.mark.parametrize("axis", range(3))
def test_an_axis_of_one_voxel_needs_no_size(axis: int) -> None:
    shape = tuple(1 if n == axis else SHAPE[n] for n in range(3))
    sizes = [0.0 if n == axis else SIZES[n] for n in range(3)]
    rows = [list(row) for row in TRUE]
    for row in rows:
        row[axis] = 0.0
    forms = GOOD._replace(pixdim=(1.0, *sizes), rows=tuple(map(tuple, rows)))
    chosen = choose_affine(forms, (shape[0], shape[1], shape[2]))
    expected = [1.0 if n == axis else SIZES[n] for n in range(3)]
    np.testing.assert_allclose(np.linalg.norm(chosen.affine[:3, :3], axis=0), expected)
    assert chosen.notes == ()


def _write(path: Path, forms: NiftiForms) -> None:
    image = nib.Nifti1Image(np.ones(SHAPE, np.int16), None)
    image.header.set_xyzt_units("mm")
    forms.write_to(image.header)
    image.to_filename(path)


def _stored(path: Path) -> NiftiForms:
    return NiftiForms.from_header(nib.Nifti1Header(path.read_bytes()[:348], check=False))


_numbers = st.sampled_from([0.0, 1.0, -1.0, 0.5, 0.70710677, 2.0, 5.0, 1.316, 10.0, -3.25, np.nan, np.inf])
_header = st.builds(
    NiftiForms,
    st.integers(0, 4),
    st.integers(0, 4),
    st.tuples(_numbers, _numbers, _numbers),
    st.tuples(_numbers, _numbers, _numbers),
    st.tuples(_numbers, _numbers, _numbers, _numbers),
    st.tuples(*[st.tuples(_numbers, _numbers, _numbers, _numbers)] * 3),
    st.integers(1, 3),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_header)
def test_any_header_is_read_or_refused_in_one_line_and_written_as_it_came(tmp_path: Path, forms: NiftiForms) -> None:
    _write(tmp_path / "image.nii", forms)
    usable = np.isfinite(choose_affine(forms, SHAPE).affine).all()
    if not usable:
        with pytest.raises(InputError, match="not a finite 4x4"):
            read_image(tmp_path / "image.nii")
        return
    image = read_image(tmp_path / "image.nii")
    write_labels(tmp_path / "labels.nii", LabelMap(np.ones(SHAPE, np.uint8), image.geometry))
    np.testing.assert_equal(_stored(tmp_path / "labels.nii"), _stored(tmp_path / "image.nii"))
    labels = read_labels(tmp_path / "labels.nii").geometry
    np.testing.assert_array_equal(labels.affine, image.geometry.affine)
    assert labels.notes == image.geometry.notes
    assert read_geometry(tmp_path / "image.nii").same_grid(labels)


def test_labels_overlay_in_itk_where_the_sform_has_other_sizes(tmp_path: Path) -> None:
    _write(tmp_path / "image.nii", GOOD._replace(rows=UNIT))
    volume = read_image(tmp_path / "image.nii")
    assert volume.geometry.voxel_volume_ml == pytest.approx(0.024)
    for ending in (".nii", ".nrrd"):
        write_labels(tmp_path / f"labels{ending}", LabelMap(np.ones(SHAPE, np.uint8), volume.geometry))
        image, labels = (sitk.ReadImage(str(tmp_path / name)) for name in ("image.nii", f"labels{ending}"))
        assert labels.GetSpacing() == image.GetSpacing()
        np.testing.assert_allclose(labels.GetOrigin(), image.GetOrigin())
        np.testing.assert_allclose(labels.GetDirection(), image.GetDirection())


def test_headers_whose_forms_contradict_each_other_are_not_portable(tmp_path: Path) -> None:
    for n, (changes, portable) in enumerate(
        [({}, True), ({"rows": UNIT}, False), ({"quaternion": (1.0, 1.0, 1.0)}, False), ({"rows": ZERO}, False)]
    ):
        _write(tmp_path / f"{n}.nii.gz", GOOD._replace(**changes))
        assert is_portable_nifti(tmp_path / f"{n}.nii.gz") is portable


@pytest.mark.parametrize(("code", "name", "factor"), [(1, "metres", 1000.0), (3, "microns", 0.001)])
@pytest.mark.parametrize("changes", [{}, {"rows": UNIT}, {"sform_code": 0}, {"qform_code": 0}])
def test_lengths_in_other_units_are_converted_as_itk_does_and_written_as_they_came(
    code: int, name: str, factor: float, changes: dict[str, Any], tmp_path: Path
) -> None:
    expected = choose_affine(GOOD._replace(**changes), SHAPE)
    _write(tmp_path / "image.nii", GOOD._replace(**changes, unit=code))
    geometry = read_image(tmp_path / "image.nii").geometry
    np.testing.assert_allclose(geometry.affine[:3], expected.affine[:3] * factor, rtol=1e-6)
    assert geometry.notes[0].startswith(f"the header states lengths in {name}; converted, voxels are ")
    assert len(geometry.notes) == 1 + len(expected.notes)
    for ending in (".nii", ".nrrd"):
        write_labels(tmp_path / f"labels{ending}", LabelMap(np.ones(SHAPE, np.uint8), geometry))
        image, labels = (sitk.ReadImage(str(tmp_path / file)) for file in ("image.nii", f"labels{ending}"))
        np.testing.assert_allclose(labels.GetSpacing(), image.GetSpacing(), rtol=1e-5)
        np.testing.assert_allclose(labels.GetOrigin(), image.GetOrigin(), rtol=1e-5)
        assert read_labels(tmp_path / f"labels{ending}").geometry.same_grid(geometry)
    assert _stored(tmp_path / "labels.nii") == _stored(tmp_path / "image.nii")
    assert _stored(tmp_path / "labels.nii").unit == code
    (tmp_path / "image.nii.gz").write_bytes(gzip.compress((tmp_path / "image.nii").read_bytes()))
    assert not is_portable_nifti(tmp_path / "image.nii.gz")
    shown = nib.Nifti1Image.from_bytes(gzip.decompress(to_bytes(np.ones((1, *SHAPE), np.uint8), geometry)))
    assert shown.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(shown.affine, geometry.affine, rtol=1e-5, atol=1e-6)


def test_an_unknown_unit_is_taken_for_mm_with_a_note(tmp_path: Path) -> None:
    _write(tmp_path / "image.nii", GOOD)
    content = bytearray((tmp_path / "image.nii").read_bytes())
    content[123] = 5
    (tmp_path / "image.nii").write_bytes(content)
    for geometry in (read_geometry(tmp_path / "image.nii"), nifti.read_image(nib.load(tmp_path / "image.nii"))[1]):
        assert geometry.notes == ("the header's unit of length, code 5, is unknown; mm is assumed",)
        assert _rows(geometry.affine) == TRUE
