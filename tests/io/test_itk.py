"""NRRD and MetaImage: LPS axes, voxels in the file itself, and headers that cannot be meant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
from refused_files import refused

from s2vnet.errors import InputError
from s2vnet.io.files import read_geometry, read_image, write_image, write_labels
from s2vnet.io.geometry import MAX_VOXELS, LabelMap, Volume

ITK = (".nrrd", ".nhdr", ".mha", ".mhd")
Array = npt.NDArray[np.float64]
LabelsOn = Callable[..., LabelMap]
MakePhantom = Callable[..., tuple[Volume, LabelMap]]


@pytest.mark.parametrize("ending", ITK)
def test_nrrd_and_metaimage_mean_lps(tmp_path: Path, ending: str, labels_on: LabelsOn, oblique: Array) -> None:
    labels = labels_on(oblique)
    write_labels(tmp_path / f"a{ending}", labels)
    independent = sitk.ReadImage(str(tmp_path / f"a{ending}"))
    place = independent.TransformIndexToPhysicalPoint((1, 2, 3))
    np.testing.assert_allclose(place * np.array([-1, -1, 1]), labels.geometry.to_world([(1, 2, 3)])[0])
    assert independent[1, 2, 3] == labels.data[1, 2, 3]


@pytest.mark.parametrize("ending", [".nrrd", ".nhdr"])
def test_what_a_silent_writer_cut_off_is_not_moved_into_place(
    tmp_path: Path, ending: str, labels_on: LabelsOn, oblique: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    import SimpleITK as sitk

    write_labels(tmp_path / f"a{ending}", labels_on(oblique))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    whole = sitk.WriteImage

    def cut(image: sitk.Image, path: str, **options: object) -> None:
        whole(image, path, **options)
        for file in Path(path).parent.iterdir():
            if file.suffix != ".nhdr":
                file.write_bytes(file.read_bytes()[: -file.stat().st_size // 3])

    monkeypatch.setattr(sitk, "WriteImage", cut)
    with pytest.raises(InputError, match="cannot write"):
        write_labels(tmp_path / f"a{ending}", labels_on(oblique))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_header_cannot_send_the_reader_elsewhere(tmp_path: Path, make_phantom: MakePhantom) -> None:
    volume, _ = make_phantom()
    (tmp_path / "secret").write_bytes(bytes(volume.data.size * 4))
    for ending, line in ((".mha", "ElementDataFile = LOCAL"), (".nrrd", "")):
        path = tmp_path / f"image{ending}"
        write_image(path, volume)
        content = path.read_bytes()
        if line:
            changed = content.replace(line.encode(), f"ElementDataFile = {tmp_path / 'secret'}".encode())
        else:
            changed = content.replace(b"\n\n", f"\ndata file: {tmp_path / 'secret'}\n\n".encode(), 1)
        assert changed != content
        path.write_bytes(changed + bytes(1 << 16))
        for read in (read_image, read_geometry):
            with pytest.raises(InputError, match="voxels lie in another file"):
                read(path)


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_nor_can_one_behind_a_long_header(tmp_path: Path, make_phantom: MakePhantom, ending: str) -> None:
    path = tmp_path / f"image{ending}"
    write_image(path, make_phantom()[0])
    first, rest = path.read_bytes().split(b"\n", 1)
    comment = b"Comment = " if ending == ".mha" else b"# "
    path.write_bytes(first + b"\n" + (comment + b"x" * 1000 + b"\n") * 1100 + rest)
    with pytest.raises(InputError, match="header of more than"):
        read_image(path)


def mha_header(size: str, more: str = "ElementType = MET_UCHAR") -> str:
    dimensions = len(size.split())
    return f"ObjectType = Image\nNDims = {dimensions}\nDimSize = {size}\n{more}\nElementDataFile = LOCAL\nabc"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.mha", mha_header("0 3 4"), "holds no voxels|not a readable"),
        ("a.mha", mha_header("100000 100000 100000"), f"over the limit of {MAX_VOXELS} voxels"),
        ("a.mha", mha_header("2000 2000 1000"), "cannot hold"),
        ("a.mha", mha_header("1 1 1 1 3"), "5 dimensions; a 3D image is needed"),
        ("a.mha", mha_header("2 3 4").replace("NDims = 3", "NDims = 1999999999"), "NDims is not a number from 1 to 9"),
        ("a.mhd", mha_header("2 3 4").replace("NDims = 3", "NDims = 1999999999"), "NDims is not a number from 1 to 9"),
        ("a.nrrd", "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2000 2000 1000\nencoding: gzip\n\nabc", "cannot hold"),
        (
            "a.nrrd",
            "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 10000 10000 10000\nencoding: raw\n\nabc",
            "over the limit",
        ),
    ],
)
def test_itk_headers_that_cannot_be_meant(tmp_path: Path, name: str, content: str, words: str) -> None:
    (tmp_path / name).write_text(content)
    refused(tmp_path / name, words)


def test_complex_voxels_are_refused(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.Image(3, 4, 5, sitk.sitkComplexFloat32), str(tmp_path / "a.nrrd"))
    refused(tmp_path / "a.nrrd", "complex voxels; a grey-value volume is needed")


@pytest.mark.parametrize("line", ["= a file.raw", "= LOCAL x", ": a.raw", "= LOCAL\nElementDataFile = a.raw"])
def test_a_meta_image_names_its_own_voxels_plainly_or_is_refused(tmp_path: Path, line: str) -> None:
    content = mha_header("2 3 4").replace("= LOCAL", line)
    (tmp_path / "a.mha").write_text(content + "d" * 24)
    (tmp_path / "a.raw").write_bytes(bytes(24))
    refused(tmp_path / "a.mha", "its voxels lie in another file")
