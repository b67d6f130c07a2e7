"""What a user should know of the headers of many cases, in few lines."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from s2vnet.data.case_files import CaseFiles
from s2vnet.errors import S2VNetError
from s2vnet.io.files import read_geometry
from s2vnet.io.nifti import ENDINGS
from s2vnet.utils.names import some_names

MAX_LINES = 10
"""Number of different notes; the others are counted."""


def header_notes(cases: Iterable[CaseFiles]) -> list[str]:
    """Notes on the headers of images and labels (:attr:`s2vnet.io.geometry.Geometry.notes`), one line for each text.

    Only headers are read, of NIfTI files, since the other formats state a grid once. Files that cannot be read are left
    to the work on their case, which reports them.

    Returns:
        Lines that start with the names of their cases, the note of most cases first.
    """
    names: dict[str, list[str]] = {}
    for case in cases:
        files = (*case.images, *(() if case.labels is None else (case.labels,)))
        for text in dict.fromkeys(text for file in files for text in _notes(file)):
            names.setdefault(text, []).append(case.name)
    found = sorted(names.items(), key=lambda entry: -len(entry[1]))
    lines = [f"{some_names(named)}: {text}" for text, named in found[:MAX_LINES]]
    if rest := found[MAX_LINES:]:
        lines.append(
            f"{len(rest)} further notes on headers, of {some_names(name for _, named in rest for name in named)}"
        )
    return lines


def _notes(file: Path) -> tuple[str, ...]:
    if not file.name.lower().endswith(ENDINGS):
        return ()
    try:
        return read_geometry(file).notes
    except S2VNetError:
        return ()
