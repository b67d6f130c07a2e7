"""Datasets in the raw layout of nnU-Net or of the Medical Segmentation Decathlon.

References: nnU-Net's documentation/reference/dataset-format.md (https://github.com/MIC-DKFZ/nnUNet) and
http://medicaldecathlon.com.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from json import JSONDecodeError
from pathlib import Path
from typing import Any

import numpy as np

from s2vnet.data.case_files import (
    CaseFiles,
    channel_file,
    file_exists,
    find_case_files,
    find_label_files,
    is_image_folder,
)
from s2vnet.data.case_lists import list_notes, listed_cases
from s2vnet.data.label_definitions import map_ignored, parse_labels
from s2vnet.errors import InputError, NotFoundError
from s2vnet.io.files import ENDINGS, read_image, read_labels
from s2vnet.io.geometry import LabelMap, Volume
from s2vnet.utils.json_io import read_json
from s2vnet.utils.names import some_names

SPLIT_SEED = 12345
"""nnU-Net's seed for its five folds."""


@dataclass(frozen=True)
class Dataset:
    """Contents of ``dataset.json``, whose files were checked to exist."""

    root: Path
    name: str
    channels: tuple[str, ...]
    """Channel names in order; "CT" selects the intensity scheme, as in nnU-Net."""
    labels: Mapping[str, int]
    """Class name to label value, background 0 included, values 0..K-1."""
    ending: str
    training: tuple[CaseFiles, ...]
    test: tuple[CaseFiles, ...]
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Label values by region: unions of classes that scores are reported for."""
    ignore: int | None = None
    """Value of voxels in label files whose class is unknown."""
    notes: tuple[str, ...] = ()
    """What of dataset.json is not used."""
    licence: str | None = None
    """Licence, where dataset.json states one."""

    def case(self, name: str) -> CaseFiles:
        """Training or test case by name. Raises InputError where there is none."""
        for case in (*self.training, *self.test):
            if case.name == name:
                return case
        raise InputError(f"{self.root}: no case {name!r}")

    def read(self, case: CaseFiles, *, fill_nonfinite: float | None = None) -> tuple[Volume, LabelMap | None]:
        """Read image (C, I, J, K) and labels of a case, None where it has none, on the same grid.

        Voxels to ignore are :data:`s2vnet.data.label_definitions.IGNORED` in the labels.

        Raises:
            InputError: a file cannot be read, channels are missing, the grids differ, or a label is not in
                dataset.json.
        """
        volume = read_image(case.images, fill_nonfinite=fill_nonfinite, frames_as_channels=len(case.images) == 1)
        if volume.data.shape[0] != len(self.channels):
            count, expected = volume.data.shape[0], len(self.channels)
            raise InputError(f"{case.images[0]}: {count} channels where dataset.json names {expected}")
        if case.labels is None:
            return volume, None
        labels = read_labels(case.labels)
        volume.geometry.require_same_grid(labels.geometry, f"{case.images[0]} and {case.labels}")
        unknown = sorted(set(np.unique(labels.data).tolist()) - set(self.labels.values()) - {self.ignore})
        if unknown:
            raise InputError(
                f"{case.labels}: label values {some_names(unknown)} are not in dataset.json; correct either"
            )
        return volume, LabelMap(map_ignored(labels.data, self.ignore), volume.geometry)


def read_dataset(root: Path | str, *, skip_missing: bool = False) -> Dataset:
    """Read a dataset from a folder with ``dataset.json``.

    Args:
        root: the folder.
        skip_missing: ignore cases with a missing image or missing labels; else they are an error.

    Raises:
        InputError: no or damaged dataset.json, labels that are not 0..K-1, missing channels or labels, duplicate cases.
    """
    root = Path(root)
    path = root / "dataset.json"
    content = read_dataset_json(root)
    channels = _channels(path, content)
    labels = parse_labels(path, content)
    ending = _ending(root, content)
    training, followed = _find_cases(root, content, "training", ending, len(channels))
    test, test_followed = _find_cases(root, content, "test", ending, len(channels))
    notes = list_notes(root, content, training, len(channels)) if followed else []
    notes += [
        f"dataset.json lists {part} cases under names that no file has; those in the folder are used"
        for part, cases, used in (("training", training, followed), ("test", test, test_followed))
        if cases and not used and content.get(part)
    ]
    if labels.regions:
        notes.append(
            f"regions ({some_names(labels.regions)}) are scored as unions of the exclusive classes of the files, which "
            f"are trained: {some_names((f'{v} {name}' for name, v in labels.classes.items() if v), 20)}"
        )
    if skip_missing:
        training = tuple(case for case in training if _has_files(case) and case.labels is not None)
        test = tuple(case for case in test if _has_files(case))
    _require_files(root, training, len(channels), labelled=True)
    _require_files(root, test, len(channels), labelled=False)
    name = str(content.get("name", root.resolve().name))
    stated = (content.get(key) for key in ("licence", "license"))
    licence = next((text for text in stated if isinstance(text, str) and text), None)
    defined = (labels.regions, labels.ignore)
    return Dataset(
        root, name, channels, labels.classes, ending, training, test, *defined, notes=tuple(notes), licence=licence
    )


def read_dataset_json(root: Path) -> dict[str, Any]:
    """Read the JSON object of a folder's ``dataset.json``.

    Raises:
        InputError: it is missing or damaged.
    """
    path = root / "dataset.json"
    try:
        content = read_json(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give a folder in nnU-Net's raw layout") from error
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON{_where(error)}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: must hold a JSON object")
    return content


def make_folds(names: Sequence[str], count: int = 5) -> list[dict[str, list[str]]]:
    """Make nnU-Net's cross-validation folds: shuffled k-fold over sorted names, seed 12345.

    Identical to scikit-learn's ``KFold(count, shuffle=True, random_state=12345)``.

    Raises:
        InputError: fewer cases than folds.
    """
    if len(names) < count:
        raise InputError(f"{len(names)} cases cannot be split into {count} folds; write your own splits_final.json")
    ordered = np.array(sorted(names))
    shuffled = np.random.RandomState(SPLIT_SEED).permutation(len(ordered))
    result = []
    for held_out in np.array_split(shuffled, count):
        validation = np.zeros(len(ordered), bool)
        validation[held_out] = True
        result.append({"train": ordered[~validation].tolist(), "val": ordered[validation].tolist()})
    return result


def read_folds(dataset: Dataset) -> list[dict[str, list[str]]]:
    """Read the folds of ``splits_final.json`` in the dataset's folder; nnU-Net's default folds without it.

    Raises:
        InputError: a damaged file, unknown cases, or a case twice in a fold.
    """
    path = dataset.root / "splits_final.json"
    names = [case.name for case in dataset.training]
    if not path.is_file():
        return make_folds(names)
    try:
        splits = [{part: [str(name) for name in fold[part]] for part in ("train", "val")} for fold in read_json(path)]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f'{path}: must be a list of folds, each with lists "train" and "val"') from error
    unknown = {name for fold in splits for part in fold.values() for name in part} - set(names)
    if unknown:
        raise InputError(f"{path}: unknown cases {some_names(sorted(unknown))}")
    for number, fold in enumerate(splits):
        counts = Counter(fold["train"] + fold["val"])
        twice = sorted(name for name, count in counts.items() if count > 1)
        if twice:
            raise InputError(f"{path}: fold {number} lists {some_names(twice)} twice; train and val must not overlap")
    return splits


def select_fold(dataset: Dataset, fold: str) -> tuple[list[str], list[str]]:
    """Return the names of a fold's training and held-out cases; of ``all``, every case and none.

    Raises:
        InputError: No such fold, or as :func:`read_folds`.
    """
    if fold == "all":
        return [case.name for case in dataset.training], []
    splits = read_folds(dataset)
    if not fold.isdecimal() or int(fold) >= len(splits):
        raise InputError(f"no fold {fold!r}; choose 0 to {len(splits) - 1}, or all")
    return splits[int(fold)]["train"], splits[int(fold)]["val"]


def _where(error: ValueError) -> str:
    """Place of a mistake in a JSON file, where it is known."""
    return f" (line {error.lineno}, column {error.colno})" if isinstance(error, JSONDecodeError) else ""


def _channels(path: Path, content: Mapping[str, Any]) -> tuple[str, ...]:
    named = content.get("channel_names", content.get("modality"))
    if not isinstance(named, dict) or not named:
        raise InputError(f'{path}: needs channel_names, such as {{"0": "CT"}}')
    if sorted(named) != sorted(str(c) for c in range(len(named))):
        raise InputError(f"{path}: channel_names must be numbered 0, 1, ...; found {some_names(sorted(named))}")
    return tuple(str(named[str(c)]) for c in range(len(named)))


def _ending(root: Path, content: Mapping[str, Any]) -> str:
    ending = str(content.get("file_ending", ".nii.gz"))
    if ending not in ENDINGS:
        raise InputError(f"{root / 'dataset.json'}: file_ending {ending!r} is not one of {' '.join(ENDINGS)}")
    return ending


def _find_cases(
    root: Path, content: Mapping[str, Any], part: str, ending: str, channels: int
) -> tuple[tuple[CaseFiles, ...], bool]:
    """Cases that dataset.json lists, or those of the folder where none of the listed images exists; whether listed."""
    listed = listed_cases(root, content, part, channels)
    if any(file_exists(case.images[0]) for case in listed):
        return listed, True
    suffix = "Tr" if part == "training" else "Ts"
    found = _folder_cases(root, f"images{suffix}", f"labels{suffix}", ending, channels)
    return found or (listed if part == "training" else ()), False  # releases may come without their test images


def _folder_cases(root: Path, images: str, labels: str, ending: str, channels: int) -> tuple[CaseFiles, ...]:
    """Cases of nnU-Net's folders of images and labels."""
    if not is_image_folder(root / images):
        return ()
    known = find_label_files(root / labels) if is_image_folder(root / labels) else {}
    cases = []
    for case in find_case_files(root / images, channels, known):
        truth = root / labels / f"{case.name}{ending}"
        cases.append(CaseFiles(case.name, case.images, truth if truth.exists() or labels == "labelsTr" else None))
    return tuple(cases)


def _require_files(root: Path, cases: Sequence[CaseFiles], channels: int, labelled: bool) -> None:
    if labelled and not cases:
        raise InputError(f"{root}: no training cases (imagesTr)")
    missing = [file for case in cases for file in case.images if not file_exists(file)]
    if missing:
        more = f", and {len(missing) - 1} more are missing" if len(missing) > 1 else ""
        raise NotFoundError(f"{missing[0]}: no such file{more}")
    names: set[str] = set()
    for case in cases:
        if case.name in names:
            raise InputError(f"{root}: case {case.name} is listed twice")
        names.add(case.name)
        if len(case.images) not in (1, channels) or (channels > 1 and _is_first_channel(case)):
            raise InputError(f"{root}: case {case.name} has {len(case.images)} of {channels} channels (missing files)")
        if labelled and (case.labels is None or not file_exists(case.labels)):
            raise InputError(f"{root}: case {case.name} has no label file ({case.labels or 'none is named'})")


def _has_files(case: CaseFiles) -> bool:
    return all(file_exists(file) for file in (*case.images, case.labels) if file is not None)


def _is_first_channel(case: CaseFiles) -> bool:
    """Whether a single file is named as channel 0 of several, rather than as a 4D image."""
    return len(case.images) == 1 and case.images[0].name.startswith(channel_file(case.name, 0, ""))
