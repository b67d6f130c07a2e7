"""Zip archives of DICOM files: read like their folder, and no way to harm."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from s2vnet.errors import InputError
from s2vnet.io.dicom import zip_archive as archive
from s2vnet.io.dicom.zip_archive import open_series_folder
from s2vnet.io.files import read_image

WriteSeries = Callable[..., None]
VOXELS = np.random.default_rng(0).integers(-1000, 1000, (5, 6, 4))


def _pack(series: Path, target: Path, *others: tuple[str, bytes]) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        for number, file in enumerate(sorted(series.iterdir())):
            packed.write(file, f"STUDY/SE{number % 2}/{file.name}")
        for name, content in others:
            packed.writestr(name, content)
    return target


@pytest.fixture
def series(tmp_path: Path, write_series: WriteSeries) -> Path:
    folder = tmp_path / "series"
    folder.mkdir()
    write_series(folder, VOXELS)
    return folder


def test_an_archive_is_the_series_whatever_folders_it_lies_in(series: Path, tmp_path: Path) -> None:
    packed = _pack(
        series, tmp_path / "scan.ZIP", ("README.txt", b"viewer"), ("../../escaped.txt", b"out"), ("/abs", b"")
    )
    found, plain = read_image(packed), read_image(series)
    assert np.array_equal(found.data, plain.data)
    found.geometry.require_same_grid(plain.geometry, "packed and plain")
    with open_series_folder(packed) as folder:
        assert {file.parent for file in folder.rglob("*")} == {folder}
    assert not folder.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scan.ZIP", "series"]
    with open_series_folder(series) as same:
        assert same == series


def test_members_without_a_name_and_links_are_no_files_of_ours(series: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.dcm"
    secret.write_bytes(b"secret")
    link = zipfile.ZipInfo("link.dcm")
    link.external_attr = 0o120777 << 16
    packed = _pack(series, tmp_path / "scan.zip")
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(link, str(secret))
        archive.writestr("nameless", b"")
    packed.write_bytes(packed.read_bytes().replace(b"nameless", bytes(8)))
    with open_series_folder(packed) as folder:
        files = sorted(folder.iterdir())
        assert len(files) == VOXELS.shape[2] + 1
        assert not any(file.is_symlink() or file.read_bytes() == b"secret" for file in files)


def test_what_cannot_be_unpacked_is_said_in_one_line(
    series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_series: WriteSeries
) -> None:
    (tmp_path / "other").mkdir()
    write_series(tmp_path / "other", VOXELS)
    others = [file.read_bytes() for file in (tmp_path / "other").iterdir()]
    packed = _pack(series, tmp_path / "scan.zip")
    (tmp_path / "cut.zip").write_bytes(packed.read_bytes()[:-40])
    bomb = _pack(series, tmp_path / "bomb.zip", ("air.dcm", bytes(2**24)))
    for name, message in (("none.zip", "no such file"), ("cut.zip", "cannot be unpacked")):
        with pytest.raises(InputError, match=message):
            read_image(tmp_path / name)
    for seed in range(40):  # damage inside a member
        content = bytearray(packed.read_bytes())
        content[int(np.random.default_rng(seed).integers(60, len(content) // 2))] ^= 0xFF
        (tmp_path / "hurt.zip").write_bytes(content)
        with suppress(InputError):  # some bytes matter to nobody
            read_image(tmp_path / "hurt.zip")
    two = _pack(series, tmp_path / "two.zip", *((f"O/{n}.dcm", c) for n, c in enumerate(others)))
    with pytest.raises(InputError, match=r"two\.zip: 2 DICOM series"):
        read_image(two)
    monkeypatch.setattr(archive, "MAX_EXPANSION", 20)
    with pytest.raises(InputError, match="larger than a scan can be"):
        read_image(bomb)
    monkeypatch.setattr(archive, "MAX_FILES", 3)
    with pytest.raises(InputError, match="4 files, larger"):
        read_image(packed)
