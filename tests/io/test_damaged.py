"""Damaged and foreign files: one clear line that names the file, before anything large is allocated."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from dicom_files import dicom_of
from refused_files import refused

from s2vnet.errors import InputError
from s2vnet.io.files import ENDINGS, image_ending, read_image, read_labels, write_image, write_labels
from s2vnet.io.geometry import MAX_VOXELS, Geometry, LabelMap, Volume

SHAPE = (3, 4, 5)

LabelsOn = Callable[..., LabelMap]
MakePhantom = Callable[..., tuple[Volume, LabelMap]]


@pytest.mark.parametrize(
    ("ending", "keep"),
    # the last 4 bytes of a gzip file hold no voxel, and only NIfTI's reader looks at them
    [*itertools.product([".nii.gz", ".nii", ".nrrd", ".mha"], [0, 3, 200, 0.5, -40]), (".nii.gz", -4)],
)
def test_truncated_files(tmp_path: Path, ending: str, keep: float, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"a{ending}"
    data = np.random.default_rng(0).normal(size=(1, 20, 20, 20)).astype(np.float32)
    write_image(path, Volume(data, Geometry((20, 20, 20), np.eye(4))))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep) if keep == 0.5 else int(keep)])
    refused(path, "not a readable|cannot hold")
    assert capfd.readouterr().err == ""


def test_bytes_after_the_last_voxel_do_no_harm(tmp_path: Path, labels_on: LabelsOn) -> None:
    path = tmp_path / "a.nii.gz"
    labels = labels_on(np.eye(4))
    write_labels(path, labels)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b"more"))
    np.testing.assert_array_equal(read_labels(path).data, labels.data)


def test_a_flipped_bit_in_a_gzipped_nifti_fails_the_checksum(tmp_path: Path, labels_on: LabelsOn) -> None:
    path = tmp_path / "a.nii.gz"
    write_labels(path, labels_on(np.eye(4)))
    raw = bytearray(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=0))
    raw[-20] ^= 1
    path.write_bytes(raw)
    refused(path, "CRC check failed")


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x89PNG\r\n\x1a\n" * 100, bytes(1000), gzip.compress(b"hi", mtime=0)]
)
def test_not_an_image(tmp_path: Path, ending: str, content: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / f"a{ending}").write_bytes(content)
    refused(tmp_path / f"a{ending}", "not a readable|cannot hold|voxels")
    assert capfd.readouterr().err == ""


def test_missing_and_unknown_files(tmp_path: Path, labels_on: LabelsOn) -> None:
    refused(tmp_path / "none.nii.gz", "no such file")
    refused(tmp_path / "a.png", "unknown image format; use one of .nii.gz")
    with pytest.raises(InputError, match="unknown image format"):
        read_labels(tmp_path)
    with pytest.raises(InputError, match="unknown image format"):
        write_labels(tmp_path / "a.txt", labels_on(np.eye(4)))
    assert list(tmp_path.iterdir()) == []


def test_endings_are_read_in_any_case() -> None:
    assert image_ending(Path("A.NII.GZ")) == ".nii.gz"
    assert image_ending("folder.nii/b.Mha") == ".mha"


@pytest.mark.parametrize("ending", ENDINGS)
def test_nan_and_infinity_are_counted_and_filled_on_request(
    tmp_path: Path, ending: str, make_phantom: MakePhantom
) -> None:
    image, _ = make_phantom(SHAPE)
    data = image.data.copy()
    data[0, 0, 0, 0], data[0, 1, 2, 3], data[0, 2, 3, 4] = np.nan, np.inf, -np.inf
    write_image(tmp_path / f"a{ending}", Volume(data, image.geometry))
    with pytest.raises(InputError, match=r"3 of 60 voxels are NaN or infinite; .*--fill-nan VALUE"):
        read_image(tmp_path / f"a{ending}")
    with pytest.raises(InputError, match="3 label voxels are NaN or infinite"):
        read_labels(tmp_path / f"a{ending}")
    filled = read_image(tmp_path / f"a{ending}", fill_nonfinite=-1000)
    np.testing.assert_array_equal(filled.data, np.where(np.isfinite(data), data, -1000))
    with pytest.raises(InputError, match="must be a finite number, not nan"):
        read_image(tmp_path / f"a{ending}", fill_nonfinite=np.nan)


@pytest.mark.filterwarnings("error")
def test_values_beyond_float32_count_as_infinite(tmp_path: Path) -> None:
    nib.Nifti1Image(np.full(SHAPE, 1e300), np.eye(4)).to_filename(tmp_path / "a.nii")
    with pytest.raises(InputError, match="60 of 60 voxels"):
        read_image(tmp_path / "a.nii")


@pytest.mark.parametrize("value", [-1, 65536])
def test_labels_out_of_range(tmp_path: Path, value: int) -> None:
    nib.Nifti1Image(np.full(SHAPE, value, np.int32), np.eye(4)).to_filename(tmp_path / "a.nii")
    with pytest.raises(InputError, match=f"a.nii: label values run from {value} to {value}"):
        read_labels(tmp_path / "a.nii")


def nifti_header(shape: tuple[int, ...], **fields: Any) -> bytes:
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header["dim"] = [len(shape), *shape, *(1,) * (7 - len(shape))]
    header["magic"], header["vox_offset"] = b"n+1", 352
    header["sform_code"] = 1
    header["srow_x"], header["srow_y"], header["srow_z"] = np.eye(4)[:3]
    for name, value in fields.items():
        header[name] = value
    return bytes(header.binaryblock) + bytes(4)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("shape", "fields", "words"),
    [
        ((0, 3, 4), {}, "holds no voxels"),
        ((-2, 3, 4), {}, "holds no voxels"),
        ((12,), {}, "a grey-value volume is needed"),
        ((30000, 30000, 30000), {}, f"over the limit of {MAX_VOXELS} voxels"),
        ((2000, 2000, 2000, 1000), {}, f"over the limit of {MAX_VOXELS}"),
        ((2000, 2000, 2000), {}, "cannot hold"),
        ((2, 3, 4), {"datatype": 128, "bitpix": 24}, "a grey-value volume is needed"),
        ((2, 3, 4), {"datatype": 32, "bitpix": 64}, "complex64 voxels"),
        ((2, 3, 4), {"srow_z": (0, 0, np.nan, 1), "pixdim": (np.nan,) * 8}, "not a finite 4x4"),
    ],
)
def test_nifti_headers_that_cannot_be_meant(
    tmp_path: Path, zipped: bool, shape: tuple[int, ...], fields: dict[str, Any], words: str
) -> None:
    content = nifti_header(shape, **fields) + bytes(300)
    path = tmp_path / ("a.nii.gz" if zipped else "a.nii")
    path.write_bytes(gzip.compress(content) if zipped else content)
    refused(path, words)


@pytest.mark.parametrize(("old", "new"), [(b"UI", b"U\x00"), (b"UL\x04\x00", b"UL\x03\x00")])
def test_a_dicom_header_with_a_fault_of_pydicom_s_own_kinds(
    tmp_path: Path, write_series: Callable[..., None], old: bytes, new: bytes
) -> None:
    file = dicom_of(tmp_path, write_series)
    raw = file.read_bytes()
    at = raw.index(old, 132)
    file.write_bytes(raw[:at] + new + raw[at + len(new) : 300])
    with pytest.raises(InputError, match="DICOM"):
        read_image(tmp_path)
