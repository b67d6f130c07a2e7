"""Files of DICOM folders as archives and media export them: nested, with an index (DICOMDIR), under any names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePath

from s2vnet.errors import InputError

MAX_FILES = 20_000
"""Largest number of files of a folder or archive; a CT of two metres has 4000 slices."""
_MAX_SNIFFED = 256
"""Files of a folder that are opened to find out whether it holds DICOM files."""
ENDINGS = (".dcm", ".ima", ".dicom", "")
"""Usual endings, in lower case; files with these are opened first."""
_LITTER = frozenset(("__macosx", "$recycle.bin", "system volume information", "thumbs.db", "desktop.ini"))


def is_litter(path: PurePath) -> bool:
    """Whether a relative path is hidden or was added by an operating system, which may have an image's ending."""
    return any(part.lower() in _LITTER or (part.startswith(".") and part != "..") for part in path.parts)


def walk_files(folder: Path) -> list[Path]:
    """List the files of a folder and its subfolders in order of their paths, without litter; links are no subfolders.

    Of a file, the list is the file itself.

    Raises:
        InputError: a folder that cannot be read, or more than ``MAX_FILES`` files.
    """
    found: list[Path] = [folder] if folder.is_file() else []
    for parent, children, names in () if found else os.walk(folder, onerror=_raise):
        children[:] = [name for name in children if not is_litter(PurePath(name))]
        found += [file for name in names if not is_litter(PurePath(name)) and (file := Path(parent, name)).is_file()]
        if len(found) > MAX_FILES:
            raise InputError(f"more than {MAX_FILES} files; name the folder of one scan", path=folder)
    return sorted(found)


def _raise(error: OSError) -> None:
    raise InputError(f"{error.filename}: {error.strerror}; a series in it may be incomplete") from error


def has_dicom_files(folder: Path) -> bool:
    """Whether a folder itself, without its subfolders, holds DICOM files; an index (DICOMDIR) is none."""
    files = [file for file in _files(folder) if not is_litter(PurePath(file.name))]
    files.sort(key=lambda file: (_rank(file), file.name))
    return any(_is_dicom(file) for file in files[:_MAX_SNIFFED])


def is_dicom_file(file: Path) -> bool:
    """Whether a file starts like a DICOM file with a preamble."""
    try:
        with file.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _files(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_file():
                yield Path(folder, entry.name)


def _rank(file: Path) -> int:
    suffix = file.suffix.lower()
    return ENDINGS.index(suffix) if suffix in ENDINGS else len(ENDINGS)


def _is_dicom(file: Path) -> bool:
    """Whether a file is a DICOM image, by its header or its ending, as far as can be said without reading all of it."""
    from s2vnet.io.dicom.validate import is_image, read_header

    if file.suffix.lower() == ".dcm":
        return True
    try:
        if is_dicom_file(file):
            return is_image(file)
        with file.open("rb") as stream:
            if stream.read(2) not in (b"\x08\x00", b"\x02\x00"):
                return False
        return read_header(file).has_pixels
    except (InputError, OSError):
        return False
