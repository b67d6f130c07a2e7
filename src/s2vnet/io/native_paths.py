"""Paths for libraries that open files by themselves and take UTF-8 only (SimpleITK, GDCM).

Headers of two-file formats name the second file, and give some characters of a name a meaning.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from s2vnet.utils.file_names import is_unicode

_SPECIAL = frozenset('\\:%"\n\r\t') if os.name == "posix" else frozenset()
"""Characters with a meaning in headers."""


@contextmanager
def readable_paths(files: Sequence[Path], ending: str = "", siblings: bool = False) -> Iterator[list[str]]:
    """Yield names by which files can be opened: their own, or those of links in a temporary folder.

    Args:
        files: files to read.
        ending: ending of the links' names.
        siblings: also link the other files of the folder by their own names, to which a header may refer.
    """
    if all(map(_is_plain, files)):
        yield [str(file) for file in files]
        return
    with tempfile.TemporaryDirectory(prefix="s2vnet-") as name:
        links = [Path(name) / f"{number:06d}{ending}" for number in range(len(files))]
        for link, file in zip(links, files, strict=True):
            link.symlink_to(file.absolute())
        for other in files[0].absolute().parent.iterdir() if siblings else ():
            if is_unicode(other.name):
                with suppress(FileExistsError):
                    (Path(name) / other.name).symlink_to(other)
        yield [str(link) for link in links]


@contextmanager
def writable_path(file: Path, ending: str) -> Iterator[str]:
    """Yield a name by which a file can be written, in its folder; at the end the file gets its own name."""
    if _is_plain(file):
        yield str(file)
        return
    with tempfile.TemporaryDirectory(prefix="s2vnet-") as name:
        folder = Path(name) / "folder"
        folder.symlink_to(file.absolute().parent)
        temporary = folder / f"s2vnet-{uuid.uuid4().hex}{ending}"
        yield str(temporary)
        temporary.replace(file)


def _is_plain(path: Path) -> bool:
    """Whether every library opens the path as it is."""
    return is_unicode(path) and not _SPECIAL & set(str(path))
