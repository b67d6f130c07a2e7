"""NIfTI's own matters: slope and intercept, qform and sform."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk

from s2vnet.errors import InputError
from s2vnet.io import nifti
from s2vnet.io.files import is_portable_nifti, read_image, read_labels, write_labels
from s2vnet.io.geometry import Geometry, LabelMap

SHAPE = (3, 4, 5)

Array = npt.NDArray[np.float64]
LabelsOn = Callable[..., LabelMap]


@pytest.mark.parametrize("stored", [np.uint8, np.int16])
def test_slope_and_intercept_are_applied_and_not_passed_on(tmp_path: Path, stored: Any) -> None:
    raw = np.arange(60).reshape(SHAPE).astype(stored)
    image = nib.Nifti1Image(raw, np.eye(4))
    image.header.set_slope_inter(0.5, -10)
    path = tmp_path / "scaled.nii.gz"
    image.to_filename(path)
    written = gzip.decompress(path.read_bytes())
    # what nibabel does with the slope on saving is its own affair: put raw integers and slope into the file
    path.write_bytes(gzip.compress(written[:112] + struct.pack("<ff", 0.5, -10) + written[120:352] + raw.tobytes("F")))

    volume = read_image(path)
    np.testing.assert_allclose(volume.data[0], raw * 0.5 - 10, atol=1e-5)
    write_labels(tmp_path / "labels.nii.gz", LabelMap(raw.astype(np.uint8), volume.geometry))
    header = gzip.decompress((tmp_path / "labels.nii.gz").read_bytes())
    assert struct.unpack("<ff", header[112:120]) == (1, 0)
    np.testing.assert_array_equal(read_labels(tmp_path / "labels.nii.gz").data, raw)


def test_labels_stored_as_floats_or_scaled_integers_are_labels(tmp_path: Path) -> None:
    values = np.arange(60, dtype=np.uint8).reshape(SHAPE)
    nib.Nifti1Image(values.astype(np.float64), np.eye(4)).to_filename(tmp_path / "float.nii.gz")
    sitk.WriteImage(sitk.GetImageFromArray(values.astype(np.float32).transpose(2, 1, 0)), str(tmp_path / "float.mha"))
    nib.Nifti1Image(values * 100, np.eye(4)).to_filename(tmp_path / "scaled.nii")
    data = bytearray((tmp_path / "scaled.nii").read_bytes())
    data[112:120] = struct.pack("<ff", 0.01, 0)
    data[352:] = values.tobytes("F")
    (tmp_path / "scaled.nii").write_bytes(data)
    np.testing.assert_array_equal(read_labels(tmp_path / "float.nii.gz").data, values)
    np.testing.assert_array_equal(read_labels(tmp_path / "float.mha").data, values)
    with pytest.raises(InputError, match=r"label 0.01 at voxel \(0, 0, 1\) is not an integer"):
        read_labels(tmp_path / "scaled.nii")
    data[112:120] = struct.pack("<ff", 1.0000001, 0)
    (tmp_path / "scaled.nii").write_bytes(data)
    np.testing.assert_array_equal(read_labels(tmp_path / "scaled.nii").data, values)


@pytest.mark.parametrize(("qform", "sform"), [(1, 1), (1, 0), (0, 4), (2, 3), (0, 0)])
def test_the_codes_of_qform_and_sform_stay(tmp_path: Path, grid: tuple[str, Array], qform: int, sform: int) -> None:
    name, affine = grid
    image = nib.Nifti1Image(np.zeros(SHAPE, np.int16), affine)
    image.set_qform(affine, qform)
    image.set_sform(affine, sform)
    image.to_filename(tmp_path / "image.nii.gz")
    volume = read_image(tmp_path / "image.nii.gz")
    write_labels(tmp_path / "labels.nii.gz", LabelMap(np.ones(SHAPE, np.uint8), volume.geometry))
    labels = nib.Nifti1Image.from_filename(tmp_path / "labels.nii.gz")
    volume.geometry.require_same_grid(Geometry(SHAPE, labels.affine), name)
    original = nib.Nifti1Image.from_filename(tmp_path / "image.nii.gz")
    np.testing.assert_allclose(labels.affine, original.affine, atol=1e-4)
    assert (int(labels.header["qform_code"]), int(labels.header["sform_code"])) == (qform, sform)


def test_forms_of_two_worlds_are_passed_on(tmp_path: Path, oblique: Array) -> None:
    image = nib.Nifti1Image(np.zeros(SHAPE, np.int16), np.eye(4))
    image.set_qform(np.diag([0.7, 1 / 3, 2.5, 1.0]), 1)
    image.set_sform(oblique, 4)
    image.to_filename(tmp_path / "image.nii")
    geometry = read_image(tmp_path / "image.nii").geometry
    np.testing.assert_allclose(geometry.affine, oblique, rtol=1e-6)
    assert geometry.notes == ()
    write_labels(tmp_path / "labels.nii", LabelMap(np.ones(SHAPE, np.uint8), geometry))
    labels = nib.Nifti1Image.from_filename(tmp_path / "labels.nii")
    np.testing.assert_array_equal(labels.get_qform(), image.get_qform())
    assert (int(labels.header["qform_code"]), int(labels.header["sform_code"])) == (1, 4)


@pytest.mark.parametrize(("name", "gzipped"), [("a.nii.gz", False), ("a.nii", True), ("A.NII.GZ", False)])
def test_gzip_is_recognised_by_content(tmp_path: Path, name: str, gzipped: bool, labels_on: LabelsOn) -> None:
    labels = labels_on(np.diag([-0.7, 1.0, 2.5, 1.0]))
    write_labels(tmp_path / "plain.nii", labels)
    content = (tmp_path / "plain.nii").read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(content) if gzipped else content)
    back = read_labels(tmp_path / name)
    np.testing.assert_array_equal(back.data, labels.data)
    np.testing.assert_array_equal(read_image(tmp_path / name).data[0], labels.data)
    assert nifti.count_voxels(tmp_path / name) == labels.data.size
    assert not is_portable_nifti(tmp_path / name)  # other readers go by the name


def test_long_axes_go_to_nifti_2(tmp_path: Path) -> None:
    labels = LabelMap(np.ones((40000, 1, 1), np.uint8), Geometry((40000, 1, 1), np.eye(4)))
    write_labels(tmp_path / "a.nii.gz", labels)
    np.testing.assert_array_equal(read_labels(tmp_path / "a.nii.gz").data, labels.data)


def test_the_same_labels_give_the_same_bytes(tmp_path: Path, labels_on: LabelsOn, oblique: Array) -> None:
    for ending in (".nii.gz", ".nrrd", ".mha"):
        written = []
        for _ in range(2):
            write_labels(tmp_path / f"a{ending}", labels_on(oblique))
            written.append((tmp_path / f"a{ending}").read_bytes())
        assert written[0] == written[1]


def test_bytes_are_the_file(tmp_path: Path, labels_on: LabelsOn) -> None:
    labels = labels_on(np.diag([-0.7, 1.0, 2.5, 1.0]))
    write_labels(tmp_path / "labels.nii.gz", labels)
    packed = nifti.to_bytes(labels.data[None], labels.geometry)
    assert gzip.decompress(packed) == gzip.decompress((tmp_path / "labels.nii.gz").read_bytes())


@pytest.mark.parametrize(
    ("change", "plain"),
    [
        ({}, True),
        ({"dtype": np.uint8}, True),
        ({"dtype": np.dtype(">i2")}, True),
        ({"qform": np.diag([1.0, 1.0, 2.0, 1.0])}, False),
        ({"codes": (0, 0)}, False),
        ({"codes": (1, 0)}, True),
        ({"dtype": np.float32}, False),
        ({"shape": (3, 4, 5, 1)}, False),
        ({"shape": (3, 4)}, False),
        ({"name": "a.nii"}, False),
        ({"kind": nib.Nifti2Image}, False),
        ({"extension": nib.nifti1.Nifti1Extension("comment", b"Doe^John")}, False),
    ],
)
def test_what_every_reader_reads_alike_is_plain(tmp_path: Path, change: dict[str, Any], plain: bool) -> None:
    affine = np.diag([-1.0, 1.0, 3.0, 1.0])
    image = change.get("kind", nib.Nifti1Image)(
        np.ones(change.get("shape", SHAPE), change.get("dtype", np.int16)), affine
    )
    qform, sform = change.get("codes", (1, 1))
    image.set_qform(change.get("qform", affine), qform)
    image.set_sform(affine, sform)
    image.header.extensions.extend([change["extension"]] if "extension" in change else [])
    path = tmp_path / change.get("name", "a.nii.gz")
    image.to_filename(path)
    assert is_portable_nifti(path) is plain


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("scaling", [(1, 0), (0.1, -1024), (1e-3, 0.5), (1, 7)])
def test_parts_as_stored_are_scaled_as_the_whole_is(
    tmp_path: Path, kind: type[np.generic], scaling: tuple[float, float]
) -> None:
    values = np.random.default_rng(0).integers(0, 200, (5, 4, 3)).astype(kind) * np.array(1).astype(kind)
    image = nib.Nifti1Image(values, np.eye(4), dtype=kind)
    image.header.set_slope_inter(*scaling)
    nib.save(image, tmp_path / "a.nii.gz")
    (channel,) = nifti.read_unscaled(tmp_path / "a.nii.gz").channels
    expected = nifti.read(tmp_path / "a.nii.gz", np.dtype(np.float32)).channels[0].stored
    assert channel.stored.dtype == kind
    assert channel.stored.nbytes == nifti.max_read_nbytes(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(channel.to_float32(), expected)
    np.testing.assert_array_equal(channel.scale(channel.stored[::-1, :, 1:]), expected[::-1, :, 1:])


@pytest.mark.parametrize("shape", [(1, 3, 4, 5), (2, 3, 4, 5)])
def test_the_grid_in_a_header_is_replaced_and_the_voxels_stay(tmp_path: Path, shape: tuple[int, ...]) -> None:
    data = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    path = tmp_path / "array.nii"
    nifti.write(path, data, Geometry.from_codes(SHAPE, (2, 1, 0.5), "SPL"))
    expected = Geometry.from_codes(SHAPE, (2, 1, 0.5), "LAI")
    nifti.replace_geometry(path, expected)
    voxels, geometry = nifti.map_voxels(path)
    np.testing.assert_array_equal(voxels, data)
    assert geometry.same_grid(expected)
    np.testing.assert_allclose(nib.load(path).get_qform(), expected.affine, atol=1e-5)  # type: ignore[attr-defined]
