"""Folders as archives and media export them are read, and so are zip archives of them."""

from __future__ import annotations

import gc
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
import pydicom
import pytest
from pydicom.fileset import FileSet

from s2vnet.errors import InputError
from s2vnet.io.dicom import folders
from s2vnet.io.dicom.folders import has_dicom_files, is_litter, walk_files
from s2vnet.io.files import read_geometry, read_image
from s2vnet.server.scan_library import ScanLibrary

VOXELS = np.random.default_rng(0).integers(-1000, 1000, (5, 6, 4)).astype(np.int16)
NAMES: dict[str, Callable[[int], str]] = {
    "flat": lambda k: f"{k}.dcm",
    "no ending": lambda k: f"IM{k:04d}",
    "ima": lambda k: f"A.MR.{k}.2020.IMA",
    "identifiers": lambda k: f"1.2.840.113619.{k}",
    "nested": lambda k: f"PA0/ST0/SE0/IM{k}",
    "split": lambda k: f"DICOM/PART{k % 2}/IM{k}",
    "capitals": lambda k: f"DICOM/I{k}.DCM",
}
LITTER = {
    ".DS_Store": b"\0\0\0\1Bud1",
    "._IM0001.dcm": b"\0\5\26\7",
    "Thumbs.db": b"\xd0\xcf\x11\xe0",
    "desktop.ini": b"[.ShellClassInfo]",
    "__MACOSX/IM1.dcm": b"\0\5\26\7",
    ".Trashes/501/old.dcm": b"gone",
    "README.TXT": b"viewer",
    "AUTORUN.INF": b"[autorun]",
    "VIEWER/viewer.exe": b"MZ",
    "VIEWER/logo.jpg": b"\xff\xd8\xff",
    "LOCKFILE": b"",
    "VERSION": b"1",
    "report.pdf": b"%PDF",
    "INDEX.HTM": b"<html>",
}


@pytest.fixture(params=NAMES)
def export(request: pytest.FixtureRequest, tmp_path: Path, write_series: Callable[..., None]) -> Path:
    """A series with litter, in each layout."""
    folder, plain = tmp_path / "data" / "export", tmp_path / "plain"
    plain.mkdir()
    write_series(plain, VOXELS)
    for k, file in enumerate(sorted(plain.iterdir())):
        target = folder / NAMES[request.param](k)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    for name, content in LITTER.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_exports_are_read_from_a_folder_and_a_zip_and_listed(export: Path, tmp_path: Path) -> None:
    expected = read_image(tmp_path / "plain")
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", export))
    for source in (export, archive):
        found = read_image(source)
        np.testing.assert_array_equal(found.data, expected.data)
        assert found.geometry.same_grid(expected.geometry)
        assert read_geometry(source).same_grid(expected.geometry)
    scans = ScanLibrary(tmp_path / "data", tmp_path / "sent")
    listed = scans.list_scans()
    assert {scan.id.split("/")[0] for scan in listed} == {"export"}
    assert sum(read_image(scans.find(scan.id)).data.shape[-1] for scan in listed) == VOXELS.shape[2]


def test_an_index_of_a_medium_is_no_image(tmp_path: Path, write_series: Callable[..., None]) -> None:
    series = tmp_path / "series"
    series.mkdir()
    write_series(series, VOXELS)
    files = FileSet()
    for file in sorted(series.iterdir()):
        image = pydicom.dcmread(file)
        image.PatientID, image.PatientName, image.StudyDate, image.StudyTime = "1", "A", "20200101", "120000"
        image.StudyID, image.SeriesNumber = "1", 1
        files.add(image)
    files.write(tmp_path / "medium")
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):  # of pydicom's temporary folder
        del files
        gc.collect()
    assert (tmp_path / "medium" / "DICOMDIR").is_file()
    np.testing.assert_array_equal(read_image(tmp_path / "medium").data, read_image(series).data)
    assert not has_dicom_files(tmp_path / "medium")
    with pytest.raises(InputError, match="DICOMDIR: a single DICOM file; name the folder of its series: "):
        read_image(tmp_path / "medium" / "DICOMDIR")


def test_several_scans_in_subfolders_are_refused_with_what_to_do(
    tmp_path: Path, write_series: Callable[..., None]
) -> None:
    for name in ("a/b", "c"):
        (tmp_path / "all" / name).mkdir(parents=True)
        write_series(tmp_path / "all" / name, VOXELS)
    with pytest.raises(InputError, match=r"2 DICOM series: .*choose with --series, or name the folder of one"):
        read_image(tmp_path / "all")
    (tmp_path / "other" / "deep").mkdir(parents=True)
    (tmp_path / "other" / "deep" / "x.nii.gz").touch()
    with pytest.raises(InputError, match="no DICOM images in this folder, but 1 other images in its subfolders"):
        read_image(tmp_path / "other")


def test_links_to_folders_are_not_followed_and_pipes_are_no_files(
    tmp_path: Path, write_series: Callable[..., None]
) -> None:
    series = tmp_path / "series"
    series.mkdir()
    write_series(series, VOXELS)
    (series / "loop").symlink_to(series)
    (series / "gone.dcm").symlink_to(tmp_path / "none")
    os.mkfifo(series / "pipe.dcm")
    assert len(walk_files(series)) == VOXELS.shape[2]
    assert read_image(series).data.shape[1:] == VOXELS.shape


def test_a_folder_of_too_many_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "MAX_FILES", 2)
    for n in range(3):
        (tmp_path / f"{n}.txt").touch()
    with pytest.raises(InputError, match="more than 2 files; name the folder of one scan"):
        walk_files(tmp_path)


@pytest.mark.parametrize(
    ("path", "litter"),
    [("a/b.dcm", False), ("../a.dcm", False), ("a/.b/c", True), ("a/__MACOSX/b", True), ("THUMBS.DB", True)],
)
def test_litter(path: str, litter: bool) -> None:
    assert is_litter(PurePosixPath(path)) is litter
