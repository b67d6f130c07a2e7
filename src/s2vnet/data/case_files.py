"""Files of cases, and nnU-Net's channel suffix ``_0000``: the only module that reads or writes such names.

In nnU-Net's naming an image is ``{case}_{channel:04d}{ending}``. Many datasets number their cases in the same way
(``word_0001.nii.gz``, ``amos_0001.nii.gz``), so whether four digits are a channel is decided by, in this order: the
names of the labels where they are known, the model's number of channels, and the other files of the folder. Labels have
no channels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from s2vnet.errors import InputError
from s2vnet.io.dicom.folders import ENDINGS as DICOM_ENDINGS
from s2vnet.io.dicom.series import is_multiframe
from s2vnet.io.dicom.zip_archive import ENDING as ZIP
from s2vnet.io.dicom.zip_archive import is_zip
from s2vnet.io.files import ENDINGS, count_voxels, find_ending, read_geometry

_File = TypeVar("_File")
_CHANNEL = re.compile(r"(.*[^/])_(\d{4})", re.DOTALL)


@dataclass(frozen=True)
class CaseFiles:
    """Files of one case."""

    name: str
    images: tuple[Path, ...]
    """One file per channel, or one 4D file with all channels (Decathlon)."""
    labels: Path | None = None


def channel_file(case: str, channel: int, ending: str) -> str:
    """Name of the file of one channel in nnU-Net's naming."""
    return f"{case}_{channel:04d}{ending}"


def file_exists(path: Path) -> bool:
    """Whether a file or folder exists; not for names that the system does not allow."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def file_stem(name: Path | str) -> str:
    """Name of a file, or path of a file below a URL, without the ending of an image or ``.zip``."""
    text = name.name if isinstance(name, Path) else name
    ending = find_ending(text) or (ZIP if is_zip(text) else "")
    return text[: len(text) - len(ending)]


def case_names(stems: Sequence[str]) -> list[str]:
    """Names of cases of one file each: without ``_0000`` where no other file of that name is numbered."""
    groups = _numbered(stems)
    return [
        prefix if (prefix := _split(stem)[0]) not in stems and set(groups.get(prefix, ())) == {0} else stem
        for stem in stems
    ]


def case_name(image: Path) -> str:
    """Name of the case of one image file, DICOM folder or archive, with regard to the other files of its folder."""
    if image.is_dir():
        return image.resolve().name
    if is_multiframe(image):
        return image.stem if image.suffix.lower() in DICOM_ENDINGS else image.name
    stem = file_stem(image)
    prefix, number = _split(stem)
    if number != 0 or find_ending(image) is None:
        return stem
    others = {file_stem(file) for file in image.absolute().parent.iterdir() if _is_image(file)}
    return prefix if set(_numbered(others).get(prefix, ())) <= {0} else stem


def find_case_files(folder: Path, channels: int, known: Collection[str] = ()) -> tuple[CaseFiles, ...]:
    """Find the cases among the image files of a folder.

    Args:
        folder: folder of images, or of label files.
        channels: number of image channels; 0 for label files, each of which is a case.
        known: names of cases, such as those of the labels.

    Raises:
        InputError: no images in the folder, two files of the same case and channel, or missing channels.
    """
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if not _is_image(file):
            continue
        stem = file_stem(file)
        if stem in files:
            raise InputError(f"{file}: duplicate of {files[stem].name} (case {stem}); keep one of them")
        files[stem] = file
    if not files:
        raise InputError(f"{folder}: no images ({' '.join(ENDINGS)}) in this folder")
    cases = group_channels(str(folder), files, channels, known, lambda file: _count_frames(file) == channels)
    return tuple(CaseFiles(case, images) for case, images in cases.items())


def find_label_files(folder: Path) -> dict[str, Path]:
    """Label files of a folder by name without ending. Raises InputError as :func:`find_case_files`."""
    return {case.name: case.images[0] for case in find_case_files(folder, 0)}


def find_channel_files(path: Path, channels: int) -> tuple[Path, ...] | None:
    """Channel files of the only case in a folder; None for a file and for a folder without image files (DICOM).

    Raises:
        InputError: the folder holds several cases, or as :func:`find_case_files`.
    """
    if not is_image_folder(path):
        return None
    cases = find_case_files(path, channels)
    if len(cases) > 1:
        raise InputError(f"{path}: {len(cases)} images in this folder; name one of them")
    return cases[0].images


def is_image_folder(path: Path) -> bool:
    """Whether a path is a folder with image files, rather than a file or a DICOM series."""
    return path.is_dir() and any(map(_is_image, path.iterdir()))


def group_channels(
    where: str,
    files: Mapping[str, _File],
    channels: int,
    known: Collection[str] = (),
    has_all_channels: Callable[[_File], bool] = lambda file: False,
) -> dict[str, tuple[_File, ...]]:
    """Group files by case, each with its channels in order.

    Args:
        where: folder or URL, for messages.
        files: files by name without ending; several folders may be part of the name.
        channels: number of image channels; 0 for label files.
        known: names of cases.
        has_all_channels: whether a file holds all channels, so that its four digits number cases.

    Raises:
        InputError: two files of the same case and channel, or missing channels.
    """
    groups = _numbered(files)
    by_prefix = {
        prefix
        for prefix, numbered in groups.items()
        if _are_channels(prefix, numbered, channels, known, lambda stem: has_all_channels(files[stem]))
    }
    _refuse_more_channels(where, {p: n for p, n in groups.items() if p not in by_prefix}, channels, known)
    cases: dict[str, dict[int, _File]] = {}
    for stem, file in files.items():
        prefix, number = _split(stem)
        case, channel = (prefix, number or 0) if prefix in by_prefix else (stem, 0)
        if channel in cases.setdefault(case, {}):
            raise InputError(
                f"{file}: duplicate of {Path(str(cases[case][channel])).name} (case {case}); keep one of them"
            )
        cases[case][channel] = file
    for case, numbered in cases.items():
        if case in by_prefix:
            _require_channels(where, case, numbered, channels)
    return {case: tuple(channel for _, channel in sorted(numbered.items())) for case, numbered in cases.items()}


def _split(stem: str) -> tuple[str, int | None]:
    """Prefix and number of ``{prefix}_{four digits}``; the name itself and None for any other one."""
    numbered = _CHANNEL.fullmatch(stem)
    return (numbered[1], int(numbered[2])) if numbered else (stem, None)


def _numbered(stems: Iterable[str]) -> dict[str, dict[int, str]]:
    """Names by prefix and number, of those that end in four digits."""
    groups: dict[str, dict[int, str]] = {}
    for stem in stems:
        prefix, number = _split(stem)
        if number is not None:
            groups.setdefault(prefix, {})[number] = stem
    return groups


def _are_channels(
    prefix: str,
    numbered: Mapping[int, str],
    channels: int,
    known: Collection[str],
    has_all_channels: Callable[[str], bool],
) -> bool:
    """Whether the numbers of a group of files are channels of one case, rather than cases."""
    if channels == 0:
        return False
    whole = any(stem in known for stem in numbered.values())
    if (prefix in known) != whole:
        return not whole
    if channels == 1:
        return list(numbered) == [0]
    return not has_all_channels(next(iter(numbered.values())))


def _refuse_more_channels(
    where: str, groups: Mapping[str, Mapping[int, str]], channels: int, known: Collection[str]
) -> None:
    """Refuse images of several channels for a model of one, where their names leave no doubt."""
    numbers = {tuple(sorted(group)) for prefix, group in groups.items() if not set(group.values()) & set(known)}
    if channels != 1 or len(groups) < 2 or len(numbers) != 1:
        return
    (common,) = numbers
    if len(common) > 1 and common == tuple(range(len(common))):
        case = next(iter(groups))
        raise InputError(f"{where}: case {case} has {len(common)} of 1 channels; give a folder with one file per case")


def _require_channels(where: str, case: str, found: Collection[int], channels: int) -> None:
    missing = sorted(set(range(max(found) + 1)) - set(found))
    if missing:
        raise InputError(f"{where}: case {case} lacks channel _{missing[0]:04d}")
    if len(found) != channels:
        hint = " (missing files)" if len(found) < channels else ""
        raise InputError(f"{where}: case {case} has {len(found)} of {channels} channels{hint}")


def _is_image(file: Path) -> bool:
    return find_ending(file) is not None and not file.name.startswith(".")


def _count_frames(file: Path) -> int:
    """Number of frames by the header; 1 where it cannot be read, which is reported when the image is."""
    try:
        return count_voxels(file) // math.prod(read_geometry(file).shape)
    except (InputError, OSError):
        return 1
