"""Import of unpacked official releases to nnU-Net's raw layout, by links or copies, with the usual split.

BTCV, WORD and AMOS are described by the tables of :mod:`s2vnet.data.dataset_releases`; the Decathlon's tasks and
nnU-Net's datasets, of either version, by their own ``dataset.json``.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from s2vnet.data.case_files import CaseFiles, channel_file
from s2vnet.data.case_lists import listed_cases
from s2vnet.data.dataset import Dataset, read_dataset, read_dataset_json, read_folds
from s2vnet.data.dataset_releases import RELEASES, Folders, Release
from s2vnet.data.label_definitions import parse_labels
from s2vnet.errors import InputError, NotFoundError
from s2vnet.io.files import SINGLE_FILE_ENDINGS, image_ending, split_frames
from s2vnet.utils.atomic_write import atomic_write
from s2vnet.utils.json_io import read_json
from s2vnet.utils.names import some_names

_T = TypeVar("_T")
SELF_DESCRIBED = ("msd", "nnunet")
"""Datasets with their own ``dataset.json``: http://medicaldecathlon.com and nnU-Net's."""

_MODALITIES = {"all": frozenset({"CT", "MR"}), "ct": frozenset({"CT"}), "mr": frozenset({"MR"})}
_MIXED = "either_CT_or_MR"
"""nnU-Net's name for AMOS's channel (Dataset219_Amos2022_task2.py): not "CT", so each volume is normalised alone."""
_DEFAULT = "nnU-Net's five folds are used instead"
_STALE = ("modality", "training", "validation", "test", "dataset", "numTest", "numValidation", "tensorImageSize")
"""Keys of dataset.json that nnU-Net 2 has dropped, or that list files under their old names. nnU-Net drops them in
nnunetv2/dataset_conversion/convert_raw_dataset_from_old_nnunet_format.py and convert_MSD_dataset.py."""


@dataclass(frozen=True)
class ImportResult:
    """Result of an import."""

    training: int
    """Number of training cases, including those for validation."""
    test: int
    """Number of test cases."""
    notes: tuple[str, ...]
    """One line about each missing part."""


@dataclass(frozen=True)
class _LocatedRelease:
    """A release on disk."""

    training: tuple[CaseFiles, ...]
    test: tuple[CaseFiles, ...]
    content: Mapping[str, Any]
    """Contents of dataset.json."""
    folds: list[dict[str, list[str]]]
    """Contents of splits_final.json; empty for nnU-Net's default folds."""
    missing: tuple[str, ...]
    """One line about each missing part of the labelled cases."""
    notes: tuple[str, ...]
    """One line about each missing part of the test cases and folds, which training does not need."""


def import_release(
    release: str,
    source: Path,
    target: Path,
    *,
    split: str | None = None,
    modality: str | None = None,
    copy: bool = False,
    partial: bool = False,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> ImportResult:
    """Import the release in ``source``, which is only read, as a dataset in nnU-Net's raw layout.

    Cases keep the names of their images. The target is created atomically.

    Args:
        release: btcv, word, amos, msd or nnunet.
        source: the release's folder, or one that holds it up to two levels deeper.
        target: a new folder.
        split: numbers of training and validation cases, for btcv only: 18/12 (the default) or 24/6.
        modality: modality to import, for amos only: ct, mr or all (the default).
        copy: copy the files; else they are symbolic links. Channels that share a 4D file become files either way.
        partial: import the available part of an incomplete release.
        progress: called with the step's name and the numbers of finished and of all cases.

    Raises:
        InputError: an option that does not fit, no or several releases in ``source``, an incomplete one, a target
            that exists or lies in ``source``, links or files that cannot be written.
    """
    table = RELEASES.get(release)
    if table is None and release not in SELF_DESCRIBED:
        raise InputError(f"no release {release!r}; choose one of {', '.join((*RELEASES, *SELF_DESCRIBED))}")
    mixed = table is not None and len(table.counts["training"]) > 1
    validation = _choose_option("split", split, {} if table is None else table.splits, release)
    modalities = _choose_option("modality", modality, _MODALITIES if mixed else {}, release) or _MODALITIES["all"]
    if target.exists() or target.is_symlink():
        raise InputError(f"{target}: exists already; remove it or choose another name")
    if target.resolve().is_relative_to(source.resolve()):
        raise InputError(f"{target}: lies in {source}, which is left as it is; choose a place outside")
    located = (
        _read_described(source, partial) if table is None else _read_tabulated(table, source, validation, modalities)
    )
    text = "; ".join(located.missing)
    if text and not partial:
        raise InputError(f"{source}: incomplete: {text}; get the rest, or import what is there by --partial")
    if not located.training:
        raise InputError(f"{source}: no case has both image and labels: {text}")
    with atomic_write(target) as folder:
        _write_dataset(folder, located, copy, progress)
    notes = (*located.missing, *located.notes)
    if not re.fullmatch(r"Dataset\d{3}_.+", target.name):
        notes += (f"{target.name}: nnU-Net itself requires a name such as Dataset017_BTCV",)
    return ImportResult(len(located.training), len(located.test), notes)


def _choose_option(option: str, value: str | None, choices: Mapping[str, frozenset[_T]], release: str) -> frozenset[_T]:
    """Return the choice with this name, by default the first one; empty if there are no choices."""
    if value is not None and value not in choices:
        hint = f"choose {' or '.join(choices)}" if choices else f"{release} has no such option; leave it out"
        raise InputError(f"--{option} {value}: {hint}")
    return choices[value] if value is not None else next(iter(choices.values()), frozenset())


def _read_tabulated(
    release: Release, source: Path, validation: frozenset[int], modalities: frozenset[str]
) -> _LocatedRelease:
    """Find the cases of a release that a table describes."""
    prefix = release.prefixes[0]
    wanted = " or ".join(f"{layout['training'][0]}/{prefix}0001.nii.gz" for layout in release.layouts)
    root, layout = _locate(
        source, lambda folder: _match_layout(release, folder), f"images of {release.name}, such as {wanted}"
    )
    listed = {} if release.cases or not (root / "dataset.json").is_file() else read_dataset_json(root)
    parts, shortages = {}, {}
    for part, folders in layout.items():
        expected = release.cases.get(part) or _numbers(
            prefix, (case.name for case in listed_cases(root, listed, part, 1))
        )
        parts[part], shortages[part] = _find_part(release, root, part, folders, expected, modalities)
    training = (*parts["training"], *parts.get("validation", ()))
    held_out = {f"{prefix}{n:04d}" for n in validation} | {case.name for case in parts.get("validation", ())}
    fold = {
        "train": [case.name for case in training if case.name not in held_out],
        "val": [case.name for case in training if case.name in held_out],
    }
    kinds = modalities & set(release.counts["training"])
    content: dict[str, Any] = {
        "name": release.name,
        "reference": release.reference,
        "channel_names": {"0": _MIXED if len(kinds) > 1 else min(kinds)},
        "labels": {name: value for value, name in enumerate(("background", *release.classes))},
        "file_ending": ".nii.gz",
    }
    test = parts.get("test", ())
    if len(kinds) > 1:
        content["case_modalities"] = {case.name: release.modality(int(case.name[-4:])) for case in (*training, *test)}
    notes = tuple(shortages.pop("test", ()))
    missing_parts = tuple(text for texts in shortages.values() for text in texts)
    if training and not (fold["train"] and fold["val"]):
        what = "validation" if fold["val"] else "training"
        notes += (f"splits_final.json: not written, since every case that is there is for {what}; {_DEFAULT}",)
        return _LocatedRelease(training, test, content, [], missing_parts, notes)
    return _LocatedRelease(training, test, content, [fold], missing_parts, notes)


def _find_part(
    release: Release,
    root: Path,
    part: str,
    folders: tuple[str, str],
    expected: frozenset[int],
    modalities: frozenset[str],
) -> tuple[tuple[CaseFiles, ...], list[str]]:
    """Find the complete cases of a part, and describe what is missing."""
    images, labels = (
        _numbered_files(root / name, prefix) for name, prefix in zip(folders, release.prefixes, strict=True)
    )
    unexpected = sorted((images.keys() | labels.keys()) - expected) if release.cases else []
    if unexpected:
        where = f"{folders[0]} or {folders[1]}"
        raise InputError(
            f"{root}: number {some_names(unexpected)} in {where} is no {part} case of {release.name}; move it away"
        )
    needed = list(zip(folders, release.prefixes, (images, labels), strict=True))[: 1 if part == "test" else 2]
    known = sorted(n for n in expected.union(*(files for *_, files in needed)) if release.modality(n) in modalities)
    missing: list[str] = []
    for name, prefix, files in needed:
        absent = [f"{name}/{prefix}{n:04d}.nii.gz" for n in known if n not in files]
        missing += absent if (root / name).is_dir() else [f"folder {name}"]
    complete = [n for n in known if all(n in files for *_, files in needed)]
    cases = tuple(CaseFiles(f"{release.prefixes[0]}{n:04d}", (images[n],), labels.get(n)) for n in complete)
    count = sum(release.counts[part].get(kind, 0) for kind in modalities)
    return cases, _shortage(folders[0], part, len(cases), count, missing)


def _read_described(source: Path, partial: bool) -> _LocatedRelease:
    """Find the cases of a dataset with a dataset.json of the Decathlon or of nnU-Net 1 or 2."""
    root, _ = _locate(source, _match_dataset_json, "dataset.json")
    dataset, content = read_dataset(root, skip_missing=partial), read_dataset_json(root)
    missing_parts: list[str] = []
    notes: list[str] = []
    for part, key, cases, texts in (
        ("training", "numTraining", dataset.training, missing_parts),
        ("test", "numTest", dataset.test, notes),
    ):
        names = {case.name for case in cases}
        listed = {case.name for case in listed_cases(root, content, part, len(dataset.channels))}
        # version 1 of nnU-Net listed some datasets' cases under names that no file has
        missing = sorted(listed - names) if listed & names else []
        count = content[key] if isinstance(content.get(key), int) else 0
        texts += _shortage("dataset.json", part, len(cases), max(count, len(listed)), missing)
    files = [f for case in (*dataset.training, *dataset.test) for f in (*case.images, case.labels) if f is not None]
    endings = sorted({image_ending(file) for file in files})
    if len(endings) > 1 or endings[0] not in SINGLE_FILE_ENDINGS:
        raise InputError(
            f"{root}: files end in {' and '.join(endings)}; convert them to one of {' '.join(SINGLE_FILE_ENDINGS)}"
        )
    paths = [case.name for case in (*dataset.training, *dataset.test) if Path(case.name).name != case.name]
    if paths:
        raise InputError(f"{root}: {some_names(paths)} in dataset.json is not a case name; rename it")
    described = {
        "name": dataset.name,
        "channel_names": {str(c): name for c, name in enumerate(dataset.channels)},
        "labels": dict(parse_labels(root / "dataset.json", content).listed),
        "file_ending": endings[0],
    }
    kept = {key: value for key, value in content.items() if key not in _STALE}
    folds, fold_notes = _available_folds(dataset, partial)
    return _LocatedRelease(
        dataset.training,
        dataset.test,
        kept | described,
        folds,
        tuple(missing_parts),
        (*notes, *fold_notes, *dataset.notes),
    )


def _available_folds(dataset: Dataset, partial: bool) -> tuple[list[dict[str, list[str]]], list[str]]:
    """Read the dataset's own folds; with `partial`, leave out missing cases and return notes about them."""
    path = dataset.root / "splits_final.json"
    if not path.is_file():
        return [], []
    names, absent = {case.name for case in dataset.training}, set[str]()
    if partial:
        with suppress(ValueError, KeyError, TypeError):  # `read_folds` reports these
            named = {str(n) for fold in read_json(path) for part in ("train", "val") for n in fold[part]}
            absent = named - names
    placeholders = tuple(CaseFiles(name, ()) for name in sorted(absent))
    folds = read_folds(replace(dataset, training=(*dataset.training, *placeholders)))
    if not absent:
        return folds, []
    kept = [{part: [name for name in cases if name in names] for part, cases in fold.items()} for fold in folds]
    notes = [f"{path.name}: without {some_names(sorted(absent))}"]
    empty = [number for number, fold in enumerate(kept) if not (fold["train"] and fold["val"])]
    if empty:  # all are dropped, since dropping some would renumber the others
        why = f"fold {some_names(empty)} has no case left to train on or to validate on"
        return [], [*notes, f"{path.name}: not written, since {why}; {_DEFAULT}"]
    return kept, notes


def _locate(source: Path, match: Callable[[Path], tuple[Path, Folders] | None], what: str) -> tuple[Path, Folders]:
    """Find the only match in a folder or up to two levels deeper, except in hidden folders and those of macOS."""
    if not source.is_dir():
        raise NotFoundError(f"{source}: no such folder; give the folder of the unpacked release")
    level = [source]
    for _ in range(3):
        matches = [pair for pair in map(match, level) if pair is not None]
        if len(matches) > 1:
            raise InputError(f"{source}: several releases; give one of {some_names(folder for folder, _ in matches)}")
        if matches:
            return matches[0]
        level = [inner for folder in level for inner in sorted(folder.iterdir()) if _is_visible(inner)]
    raise InputError(f"{source}: no {what}; give the folder of the unpacked release")


def _match_dataset_json(folder: Path) -> tuple[Path, Folders] | None:
    return (folder, {}) if (folder / "dataset.json").is_file() else None


def _is_visible(folder: Path) -> bool:
    return folder.is_dir() and not folder.name.startswith((".", "__MACOSX"))


def _match_layout(release: Release, folder: Path) -> tuple[Path, Folders] | None:
    """Return the first layout for which the folder has training images."""
    layouts = (x for x in release.layouts if _numbered_files(folder / x["training"][0], release.prefixes[0]))
    return next(((folder, layout) for layout in layouts), None)


def _numbered_files(folder: Path, prefix: str) -> dict[int, Path]:
    """File by case number; other files, such as macOS's ``._`` files, are ignored."""
    names = {file.name.removesuffix(".nii.gz"): file for file in folder.glob(f"{prefix}*.nii.gz") if file.is_file()}
    return {number: names[f"{prefix}{number:04d}"] for number in _numbers(prefix, names)}


def _numbers(prefix: str, names: Iterable[str]) -> frozenset[int]:
    return frozenset(int(name[len(prefix) :]) for name in names if re.fullmatch(rf"{prefix}\d{{4}}", name))


def _shortage(where: str, part: str, available: int, count: int, missing: Sequence[str]) -> list[str]:
    """One line about the missing cases of a part, or none."""
    if not missing and available >= count:
        return []
    names = f", without {some_names(missing)}" if missing else ""
    return [f"{where}: {available} of {max(available, count)} {part} cases{names}"]


def _write_dataset(
    folder: Path, located: _LocatedRelease, copy: bool, progress: Callable[[str, int, int], None]
) -> None:
    """Write or link all files of the dataset."""
    ending, channels = located.content["file_ending"], range(len(located.content["channel_names"]))
    cases = [("Tr", case) for case in located.training] + [("Ts", case) for case in located.test]
    for done, (suffix, case) in enumerate(cases, 1):
        images, labels = folder / f"images{suffix}", folder / f"labels{suffix}"
        images.mkdir(parents=True, exist_ok=True)
        targets = [images / channel_file(case.name, c, ending) for c in channels]
        if len(case.images) == len(targets):
            for image, target in zip(case.images, targets, strict=True):
                _link_or_copy(image, target, copy)
        else:
            split_frames(case.images[0], targets)
        if case.labels is not None:
            labels.mkdir(exist_ok=True)
            _link_or_copy(case.labels, labels / f"{case.name}{ending}", copy)
        progress("importing", done, len(cases))
    content = {**located.content, "numTraining": len(located.training)}
    (folder / "dataset.json").write_text(json.dumps(content, indent=2) + "\n")
    if located.folds:
        (folder / "splits_final.json").write_text(json.dumps(located.folds, indent=2) + "\n")


def _link_or_copy(source: Path, target: Path, copy: bool) -> None:
    try:
        if copy:
            shutil.copyfile(source, target)
        else:
            target.symlink_to(source.resolve())
    except OSError as error:
        reason = error.strerror or error
        hint = f"copied ({reason})" if copy else f"linked ({reason}); give --copy"
        raise InputError(f"{source}: cannot be {hint}") from error
