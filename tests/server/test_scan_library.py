"""Nothing outside the data folder is ever opened, whatever id a client sends."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path

import pytest

from s2vnet.errors import CapacityError, InputError
from s2vnet.io.files import write_image
from s2vnet.io.geometry import Volume
from s2vnet.server import scan_library
from s2vnet.server.scan_library import ScanLibrary


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Scans inside and outside of `data`, and links that lead out."""
    for name in ("data/a.nii.gz", "data/deep/b.nrrd", "data/.hidden.nii", "data/notes.txt", "outside.nii.gz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    for series in ("data/series", "elsewhere"):
        (tmp_path / series).mkdir()
        (tmp_path / series / "1.dcm").write_bytes(b"")
    (tmp_path / "data" / "link.nii.gz").symlink_to(tmp_path / "outside.nii.gz")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "loop").symlink_to(tmp_path / "data" / "loop")
    return tmp_path


def test_scans_inside_the_data_folder_are_listed(folder: Path) -> None:
    listed = ScanLibrary(folder / "data", folder / "sent").list_scans()
    assert [scan.id for scan in listed] == ["a.nii.gz", "deep/b.nrrd", "series"]
    assert [ScanLibrary(folder / "data", folder / "sent").find(scan.id).exists() for scan in listed] == [True] * 3


@pytest.mark.skipif(sys.platform != "linux", reason="names are text there")
def test_a_name_that_is_no_text_has_an_id_that_is(folder: Path) -> None:
    (folder / "data" / os.fsdecode(b"deep \xff%")).mkdir()
    (folder / "data" / os.fsdecode(b"deep \xff%/\xe9.nii.gz")).touch()
    (folder / "data" / os.fsdecode(b"deep \xff%/out.nii.gz")).symlink_to(folder / "outside.nii.gz")
    scans = ScanLibrary(folder / "data", folder / "sent")
    (odd,) = (scan for scan in scans.list_scans() if scan.id.startswith("bytes:"))
    assert odd.name == r"deep \xff%/\xe9.nii.gz"
    assert odd.model_dump_json()
    assert scans.find(odd.id) == folder / "data" / os.fsdecode(b"deep \xff%/\xe9.nii.gz")
    for name in ("bytes:..%2Foutside.nii.gz", "bytes:%2E%2E/outside.nii.gz", "bytes:a.nii.gz%00", "bytes:", "bytes:."):
        with pytest.raises(InputError, match="no such scan"):
            scans.find(name)


def test_labels_of_another_server_beside_the_scans_are_no_scans(folder: Path) -> None:
    data = folder / "data"
    for name in ("labels/final/a.nii.gz", "labels/original/a.nii.gz", "deep/labels/final/b.nrrd", "final/c.nii.gz"):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).touch()
    scans = ScanLibrary(data, folder / "sent")
    assert [scan.id for scan in scans.list_scans()] == ["a.nii.gz", "deep/b.nrrd", "final/c.nii.gz", "series"]
    with pytest.raises(InputError, match="no such scan"):
        scans.find("labels/final/a.nii.gz")


@pytest.mark.parametrize(
    "name",
    [
        *(
            "../outside.nii.gz",
            "deep/../../outside.nii.gz",
            "link.nii.gz",
            "linked",
            "loop",
            "notes.txt",
            "",
            ".",
            "..",
            "deep",
        ),
        *("missing.nii.gz", "a.nii.gz\0", "upload:../a.nii.gz", "upload:" + "0" * 32, "upload:*", "~", "x" * 5000),
    ],
)
def test_other_ids_are_refused(folder: Path, name: str) -> None:
    scans = ScanLibrary(folder / "data", folder / "sent")
    for given in (name, str(folder / "outside.nii.gz")):
        with pytest.raises(InputError, match="no such scan"):
            scans.find(given)


@pytest.mark.parametrize("name", ["data/a.nii.gz", "alias/a.nii.gz"])
def test_a_scan_has_no_other_id_than_its_path_in_the_folder(folder: Path, name: str) -> None:
    (folder / "alias").symlink_to(folder / "data")
    for served in ("data", "data/a.nii.gz"):
        scans = ScanLibrary(folder / served, folder / "sent")
        for given in (str(folder / name), f"../{name}", f"deep/../../{name}", "deep/../a.nii.gz"):
            with pytest.raises(InputError, match="no such scan"):
                scans.find(given)


def test_paths_outside_are_not_accessed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, looked = (folder / "data").resolve(), []
    served = ScanLibrary(data, folder / "sent")
    is_dir = Path.is_dir

    def spied(path: Path) -> bool:
        looked.append(path)
        return is_dir(path)

    monkeypatch.setattr(Path, "is_dir", spied)
    for name in ("../elsewhere", str(folder / "elsewhere"), "linked", "series"):
        with contextlib.suppress(InputError):
            served.find(name)
    assert set(looked) - {folder / "added"} == {data / "series"}


@pytest.mark.parametrize(
    "name", [r"\\host\share\a.nii.gz", "//host/share/a.nii.gz", "C:/a.nii.gz", "C:a.nii.gz", r"a\b.nii"]
)
def test_on_windows_absolute_and_unc_names_are_not_resolved(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans, resolved = ScanLibrary(folder / "data", folder / "sent"), []
    monkeypatch.setattr(scan_library, "_WINDOWS", True)
    monkeypatch.setattr(ScanLibrary, "_inside", lambda self, path: resolved.append(path))
    with pytest.raises(InputError, match="no such scan"):
        scans.find(name)
    assert resolved == []


def test_a_series_with_a_link_to_outside_is_refused(folder: Path) -> None:
    series, scans = folder / "data" / "series", ScanLibrary(folder / "data", folder / "sent")
    (series / "2.dcm").symlink_to(series / "1.dcm")
    assert scans.find("series") == folder / "data" / "series"
    (series / "3.dcm").symlink_to(folder / "elsewhere" / "1.dcm")
    assert "series" not in [scan.id for scan in scans.list_scans()]
    with pytest.raises(InputError, match="no such scan"):
        scans.find("series")


def test_only_links_of_a_series_are_resolved(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(50):
        (folder / "data" / "series" / f"{number}.dcm").write_bytes(b"")
    scans, resolve, resolved = ScanLibrary(folder / "data", folder / "sent"), Path.resolve, []

    def counted(path: Path, strict: bool = False) -> Path:
        resolved.append(path)
        return resolve(path, strict)

    monkeypatch.setattr(Path, "resolve", counted)
    scans.find("series")
    assert {path.name for path in resolved} == {"series"}


def test_a_single_scan_as_data_is_the_only_one(folder: Path) -> None:
    scans = ScanLibrary(folder / "data" / "a.nii.gz", folder / "sent")
    assert [scan.id for scan in scans.list_scans()] == ["a.nii.gz"]
    assert scans.find("a.nii.gz") == folder / "data" / "a.nii.gz"
    with pytest.raises(InputError, match="no such scan"):
        scans.find("deep/b.nrrd")


def test_without_a_data_folder_only_uploads_are_found(folder: Path) -> None:
    scans = ScanLibrary(None, folder / "sent")
    assert scans.list_scans() == []
    sent = scans.receive("MUELLER^HANS.nii.gz", io.BytesIO(b"voxels"))
    assert scans.find(sent.id).read_bytes() == b"voxels"
    assert "MUELLER" not in sent.id + sent.name + scans.find(sent.id).name
    with pytest.raises(InputError, match="no such scan"):
        scans.find("a.nii.gz")


@pytest.mark.parametrize("name", ["scan", "scan.exe", "a.nii.gz.py", "a.mhd", "..", ""])
def test_uploads_of_other_formats_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(InputError, match="has to be sent as one file"):
        ScanLibrary(None, folder / "sent").receive(name, io.BytesIO(b""))


def test_a_missing_data_folder_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="no folder and no scan"):
        ScanLibrary(folder / "missing", folder / "sent")


def test_added_images_count_against_the_quota_and_are_not_removed(folder: Path) -> None:
    library = ScanLibrary(folder / "data", folder / "sent", max_upload_bytes=10)
    library.add("mine", "x.nii", io.BytesIO(b"123456"))
    upload = library.receive("x.nii", io.BytesIO(b"1234"))
    other = library.receive("x.nii", io.BytesIO(b"123"))  # instead of the first upload
    with pytest.raises(InputError, match="no such scan"):
        library.find(upload.id)
    assert library.find(other.id).read_bytes() == b"123"
    with pytest.raises(CapacityError, match="no room"):
        library.receive("x.nii", io.BytesIO(b"12345"))
    assert library.find("mine").read_bytes() == b"123456"
    for taken in ("a.nii.gz", "upload:x"):
        with pytest.raises(InputError, match="another id"):
            library.add(taken, "x.nii", io.BytesIO(b"1"))
    with pytest.raises(InputError, match="has to be sent as one file"):
        library.add("other", "x.exe", io.BytesIO(b"1"))


def test_hidden_files_are_never_opened(tmp_path: Path, bordered: Volume) -> None:
    data = tmp_path / "data"
    for folder in (data, data / ".kept", data / "shown"):
        folder.mkdir()
        write_image(folder / "one.nii.gz", bordered)
    write_image(data / "shown" / ".two.nii.gz", bordered)
    (data / "link.nii.gz").symlink_to(data / ".kept" / "one.nii.gz")
    library = ScanLibrary(data, tmp_path / "sent")
    assert {scan.id for scan in library.list_scans()} == {"one.nii.gz", "shown/one.nii.gz"}
    for hidden in (".kept/one.nii.gz", "shown/.two.nii.gz", "link.nii.gz", "shown/../.kept/one.nii.gz"):
        with pytest.raises(InputError, match="no such scan"):
            library.find(hidden)
    assert ScanLibrary(data / ".kept" / "one.nii.gz", tmp_path / "sent").list_scans()  # named by the operator
