"""Cases that ``dataset.json`` lists: the Decathlon's ``training`` and ``test``, MONAI's, or nnU-Net 2's ``dataset``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from s2vnet.data.case_files import CaseFiles, case_names, channel_file, file_exists, file_stem, find_case_files
from s2vnet.errors import InputError
from s2vnet.io.files import ENDINGS

_Entry = tuple[str | None, list[str], str | None]
"""Name, paths of images, and path of labels."""
_UNUSED = ("validation", "val", "valid")


def listed_cases(root: Path, content: Mapping[str, Any], part: str, channels: int) -> tuple[CaseFiles, ...]:
    """Cases of a list, whether their files exist or not.

    A list may name ``imagesTr/x.nii.gz`` where the folder has nnU-Net's ``x_0000.nii.gz``, or the first of several
    channels: then the case has these files.

    Args:
        root: folder that paths are relative to.
        content: of ``dataset.json``.
        part: ``training`` or ``test``.
        channels: number of image channels.

    Raises:
        InputError: a case without image or label path.
    """
    try:
        entries = list(_entries(content, part))
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{root / 'dataset.json'}: a case lacks its image or label path in {part!r}") from error
    cases = [
        CaseFiles(name or "", _find_images(root, images, channels), None if label is None else _locate(root, label))
        for name, images, label in entries
    ]
    stems = case_names([file_stem(case.images[0]) for case in cases])
    named = [case if case.name else replace(case, name=_name(case, s)) for case, s in zip(cases, stems, strict=True)]
    return tuple(_distinct(root, named))


def list_notes(root: Path, content: Mapping[str, Any], training: Sequence[CaseFiles], channels: int) -> list[str]:
    """Notes about lists that are not used, and about images of the folder that the used list leaves out."""
    notes = []
    folders = {case.images[0].parent for case in training}
    if len(folders) == 1 and _listed(content, "training"):
        (folder,) = folders
        count = 0
        with suppress(InputError, OSError):
            count = len(find_case_files(folder, channels, [case.name for case in training]))
        if count > len(training):
            notes.append(f"dataset.json lists {len(training)} of the {count} cases in {folder}; only these are used")
    for key in _UNUSED:
        if isinstance(content.get(key), list) and content[key]:
            notes.append(
                f"dataset.json lists {len(content[key])} cases under {key!r}, which are not used; held-out cases are "
                "named in splits_final.json"
            )
    entries = content.get("training")
    if isinstance(entries, list) and any(isinstance(entry, dict) and "fold" in entry for entry in entries):
        notes.append("the folds in the lists of dataset.json are not used; they are named in splits_final.json")
    return notes


def _listed(content: Mapping[str, Any], part: str) -> bool:
    return bool(content.get(part)) or (part == "training" and bool(content.get("dataset")))


def _entries(content: Mapping[str, Any], part: str) -> Iterator[_Entry]:
    if part == "training" and isinstance(content.get("dataset"), dict):
        for name, entry in content["dataset"].items():
            yield str(name), _paths(entry["images"]), str(entry["label"])
        return
    entries = content.get(part) or []
    if not isinstance(entries, list):
        raise TypeError
    for entry in entries:
        if isinstance(entry, str):
            yield None, [entry], None
            continue
        label = entry.get("label")
        if not isinstance(label, str | None):
            raise TypeError
        yield None, _paths(entry["image"]), label or None


def _paths(listed: Any) -> list[str]:
    """Paths of a case's images: one, or one per channel."""
    paths = [str(path) for path in listed] if isinstance(listed, list) else [str(listed)]
    if not all(path and not path.isspace() for path in paths) or not paths:
        raise TypeError
    return paths


def _find_images(root: Path, listed: Sequence[str], channels: int) -> tuple[Path, ...]:
    """Image files of a case."""
    paths = tuple(_locate(root, image) for image in listed)
    if len(paths) != 1:
        return paths
    (path,) = paths
    folder, stem, ending = path.parent, file_stem(path), path.name[len(file_stem(path)) :]
    if file_exists(path):
        first = stem.removesuffix("_0000")
        others = tuple(folder / channel_file(first, c, ending) for c in range(channels))
        return others if first != stem and all(file_exists(other) for other in others) else paths
    for known in dict.fromkeys((ending, *ENDINGS)):
        if file_exists(folder / channel_file(stem, 0, known)):
            return tuple(folder / channel_file(stem, c, known) for c in range(channels))
    return paths


def _locate(root: Path, listed: str) -> Path:
    """Path of a listed file, also if it is written as on Windows."""
    path = root / listed
    return root / listed.replace("\\", "/") if "\\" in listed and not file_exists(path) else path


def _name(case: CaseFiles, stem: str) -> str:
    """Name of a case: of its image without the channel, which the name of its labels tells."""
    label = "" if case.labels is None else file_stem(case.labels)
    return label if label and file_stem(case.images[0]) in (label, channel_file(label, 0, "")) else stem


def _distinct(root: Path, cases: Sequence[CaseFiles]) -> Iterator[CaseFiles]:
    """Cases of distinct images, with the image's folders in names that would be the same."""
    counts = Counter(case.name for case in cases)
    seen: Counter[tuple[Path, ...]] = Counter(case.images for case in cases)
    for case in cases:
        folder = case.images[0].parent
        if counts[case.name] > 1 and seen[case.images] == 1 and folder.is_relative_to(root):
            yield replace(case, name="_".join((*folder.relative_to(root).parts, case.name)))
        else:
            yield case
