"""Zip archives of DICOM files, as PACS viewers export them, unpacked into a temporary folder."""

from __future__ import annotations

import lzma
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from s2vnet.errors import InputError, NotFoundError
from s2vnet.io.dicom.folders import MAX_FILES, is_litter

ENDING = ".zip"
MAX_UNPACKED_NBYTES = 16 * 2**30
"""Largest unpacked size of all files together."""
MAX_EXPANSION = 200
"""Largest ratio of unpacked to packed size; DICOM files compress to a half, air to a hundredth."""


@contextmanager
def open_series_folder(path: Path | str) -> Iterator[Path]:
    """Yield the folder itself, or a temporary one with all files of a zip archive, without its folders.

    Names in the archive are not used: files are numbered, so that none can be written outside the folder.

    Raises:
        InputError: no archive, a damaged or encrypted one, or one whose unpacked size no scan has.
    """
    path = Path(path)
    if path.is_dir() or not is_zip(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="s2vnet-") as name:
        try:
            _unpack(path, Path(name))
        except FileNotFoundError as error:
            raise NotFoundError("no such file", path=path) from error
        except InputError:
            raise
        except (OSError, EOFError, RuntimeError, ValueError, lzma.LZMAError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"cannot be unpacked ({error}); copy it again or unpack it yourself", path=path) from error
        try:
            yield Path(name)
        except InputError as error:
            raise error.relocated(name, path) from error


def is_zip(path: Path | str) -> bool:
    """Whether a path has the ending of a zip archive."""
    return Path(path).name.lower().endswith(ENDING)


def _is_ignored(name: str) -> bool:
    """Whether a member is a folder, has no name, or is litter."""
    return name == "" or name.endswith("/") or is_litter(PurePosixPath(name))


def _unpack(path: Path, folder: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if not _is_ignored(member.filename)]
        limit = min(MAX_UNPACKED_NBYTES, MAX_EXPANSION * path.stat().st_size)
        if len(members) > MAX_FILES or sum(member.file_size for member in members) > limit:
            raise InputError(
                f"{len(members)} files, larger than a scan can be; unpack it yourself if you trust it", path=path
            )
        for number, member in enumerate(members):
            ending = "".join(c for c in Path(member.filename).suffix.lower() if c.isalnum())[:8]
            # zipfile reads no more of a member than its header states
            with archive.open(member) as source, (folder / f"{number:05d}.{ending}").open("wb") as target:
                shutil.copyfileobj(source, target)
