"""Modality of DICOM images by their headers."""

from __future__ import annotations

from pathlib import Path

from s2vnet.errors import InputError
from s2vnet.io.dicom.folders import walk_files
from s2vnet.io.dicom.validate import MODALITY, read_header
from s2vnet.io.dicom.zip_archive import is_zip, open_series_folder


def read_modality(path: Path | str) -> str | None:
    """Modality of a DICOM folder or zip archive, such as ``CT`` or ``MR``; None for other files or an unknown one.

    That of the first image counts: :func:`s2vnet.io.files.read_image` refuses folders with several series.
    """
    path = Path(path)
    if not (path.is_dir() or is_zip(path)):
        return None
    with open_series_folder(path) as folder:
        for file in walk_files(folder):
            try:
                header = read_header(file)
            except InputError:
                continue
            if header.has_pixels:
                return header.values.get(MODALITY) or None
    return None
