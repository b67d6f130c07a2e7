"""Official releases, as unpacked, to nnU-Net's raw layout: files linked or copied, labels named, the usual split.

BTCV, WORD and AMOS are described by the tables of :mod:`.releases`; the Decathlon's tasks and nnU-Net's datasets, of
either version, describe themselves by their ``dataset.json``.
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

from s2vnet.data.dataset import CaseFiles, Dataset, read_dataset, read_dataset_json, read_folds
from s2vnet.data.releases import RELEASES, Folders, Release
from s2vnet.errors import InputError
from s2vnet.io.files import image_ending, split_frames
from s2vnet.utils.atomic_write import atomic_write
from s2vnet.utils.json_io import read_json

_T = TypeVar("_T")
SELF_DESCRIBED = ("msd", "nnunet")
"""Datasets that describe themselves: http://medicaldecathlon.com and nnU-Net's."""

_MODALITIES = {"all": frozenset({"CT", "MR"}), "ct": frozenset({"CT"}), "mr": frozenset({"MR"})}
_MIXED = "either_CT_or_MR"
"""nnU-Net's name for AMOS's channel (Dataset219_Amos2022_task2.py): not "CT", so every volume is scaled by itself."""
_DEFAULT = "nnU-Net's five folds are used instead"
_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")
"""Of images in one file, so that a link to the file is a link to the image."""
_STALE = ("modality", "training", "validation", "test", "dataset", "numTest", "numValidation", "tensorImageSize")
"""Keys of dataset.json that nnU-Net 2 has dropped, or that list files under their old names. nnU-Net drops them in
nnunetv2/dataset_conversion/convert_raw_dataset_from_old_nnunet_format.py and convert_MSD_dataset.py."""


@dataclass(frozen=True)
class ImportResult:
    """What became of a release."""

    training: int
    """Cases, those for validation included."""
    test: int
    notes: tuple[str, ...]
    """What is missing, in a line each."""


@dataclass(frozen=True)
class _Found:
    """A release on disk."""

    training: tuple[CaseFiles, ...]
    test: tuple[CaseFiles, ...]
    content: Mapping[str, Any]
    """Of dataset.json."""
    folds: list[dict[str, list[str]]]
    """Of splits_final.json; none where nnU-Net's own are meant."""
    lacking: tuple[str, ...]
    """What is missing of the labelled cases."""
    notes: tuple[str, ...]
    """What is missing of the test cases, which training can do without, and of the folds."""


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
    """Make ``target`` a dataset in nnU-Net's raw layout of the release in ``source``, which is only read.

    Cases keep the names that their images have in the release. The target appears when it is whole, or not at all.

    Args:
        release: btcv, word, amos, msd or nnunet.
        source: the release's folder, or one that holds it up to two levels deeper.
        target: a new folder.
        split: for btcv 18/12 (the default) or 24/6 cases for training and validation.
        modality: for amos ct, mr or all (the default).
        copy: copy the files; else they are symbolic links. Channels that share a 4D file become files either way.
        partial: import what is there of an incomplete release.
        progress: called with what is done, and the number of cases done and of all.

    Raises:
        InputError: an option that does not fit, no or several releases in ``source``, an incomplete one, a target
            that exists or lies in ``source``, links or files that cannot be written.
    """
    table = RELEASES.get(release)
    if table is None and release not in SELF_DESCRIBED:
        raise InputError(f"no release {release!r}; choose one of {', '.join((*RELEASES, *SELF_DESCRIBED))}")
    mixed = table is not None and len(table.counts["training"]) > 1
    validation = _chosen("split", split, {} if table is None else table.splits, release)
    modalities = _chosen("modality", modality, _MODALITIES if mixed else {}, release) or _MODALITIES["all"]
    if target.exists() or target.is_symlink():
        raise InputError(f"{target}: exists already; remove it or choose another name")
    if target.resolve().is_relative_to(source.resolve()):
        raise InputError(f"{target}: lies in {source}, which is left as it is; choose a place outside")
    found = _described(source, partial) if table is None else _numbered(table, source, validation, modalities)
    text = "; ".join(found.lacking)
    if text and not partial:
        raise InputError(f"{source}: incomplete: {text}; get the rest, or import what is there by --partial")
    if not found.training:
        raise InputError(f"{source}: no case has both image and labels: {text}")
    with atomic_write(target) as folder:
        _write(folder, found, copy, progress)
    notes = (*found.lacking, *found.notes)
    if not re.fullmatch(r"Dataset\d{3}_.+", target.name):
        notes += (f"{target.name}: nnU-Net itself wants a name such as Dataset017_BTCV",)
    return ImportResult(len(found.training), len(found.test), notes)


def _chosen(option: str, value: str | None, choices: Mapping[str, frozenset[_T]], release: str) -> frozenset[_T]:
    """The choice of that name, or the first one; nothing where there is nothing to choose."""
    if value is not None and value not in choices:
        hint = f"choose {' or '.join(choices)}" if choices else f"{release} leaves no choice; drop the option"
        raise InputError(f"--{option} {value}: {hint}")
    return choices[value] if value is not None else next(iter(choices.values()), frozenset())


def _numbered(release: Release, source: Path, validation: frozenset[int], modalities: frozenset[str]) -> _Found:
    """A release that a table describes."""
    prefix = release.prefixes[0]
    wanted = " or ".join(f"{layout['training'][0]}/{prefix}0001.nii.gz" for layout in release.layouts)
    root, layout = _locate(
        source, lambda folder: _layout(release, folder), f"images of {release.name}, such as {wanted}"
    )
    listed = {} if release.cases or not (root / "dataset.json").is_file() else read_dataset_json(root)
    parts, shortages = {}, {}
    for part, folders in layout.items():
        due = release.cases.get(part) or _numbers(prefix, _listed(listed, part))
        parts[part], shortages[part] = _part(release, root, part, folders, due, modalities)
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
    lacking = tuple(text for texts in shortages.values() for text in texts)
    if training and not (fold["train"] and fold["val"]):
        what = "validation" if fold["val"] else "training"
        notes += (f"splits_final.json: not written, since every case that is there is for {what}; {_DEFAULT}",)
        return _Found(training, test, content, [], lacking, notes)
    return _Found(training, test, content, [fold], lacking, notes)


def _part(
    release: Release, root: Path, part: str, folders: tuple[str, str], due: frozenset[int], modalities: frozenset[str]
) -> tuple[tuple[CaseFiles, ...], list[str]]:
    """Whole cases of a part, and what is missing."""
    images, labels = (_files(root / name, prefix) for name, prefix in zip(folders, release.prefixes, strict=True))
    strange = sorted((images.keys() | labels.keys()) - due) if release.cases else []
    if strange:
        where = f"{folders[0]} or {folders[1]}"
        raise InputError(
            f"{root}: number {_some(strange)} in {where} is no {part} case of {release.name}; move it away"
        )
    needed = list(zip(folders, release.prefixes, (images, labels), strict=True))[: 1 if part == "test" else 2]
    known = sorted(n for n in due.union(*(files for *_, files in needed)) if release.modality(n) in modalities)
    missing: list[str] = []
    for name, prefix, files in needed:
        absent = [f"{name}/{prefix}{n:04d}.nii.gz" for n in known if n not in files]
        missing += absent if (root / name).is_dir() else [f"folder {name}"]
    whole = [n for n in known if all(n in files for *_, files in needed)]
    cases = tuple(CaseFiles(f"{release.prefixes[0]}{n:04d}", (images[n],), labels.get(n)) for n in whole)
    count = sum(release.counts[part].get(kind, 0) for kind in modalities)
    return cases, _shortage(folders[0], part, len(cases), count, missing)


def _described(source: Path, partial: bool) -> _Found:
    """A dataset that its dataset.json describes: the Decathlon's form, nnU-Net's first or its second."""
    root, _ = _locate(source, _with_json, "dataset.json")
    dataset, content = read_dataset(root, skip_missing=partial), read_dataset_json(root)
    lacking: list[str] = []
    notes: list[str] = []
    for part, key, cases, texts in (
        ("training", "numTraining", dataset.training, lacking),
        ("test", "numTest", dataset.test, notes),
    ):
        names, listed = {case.name for case in cases}, _listed(content, part)
        # version 1 of nnU-Net listed some datasets' cases under names that no file has
        missing = sorted(listed - names) if listed & names else []
        count = content[key] if isinstance(content.get(key), int) else 0
        texts += _shortage("dataset.json", part, len(cases), max(count, len(listed)), missing)
    files = [f for case in (*dataset.training, *dataset.test) for f in (*case.images, case.labels) if f is not None]
    endings = sorted({image_ending(file) for file in files})
    if len(endings) > 1 or endings[0] not in _ENDINGS:
        raise InputError(f"{root}: files end in {' and '.join(endings)}; convert them to one of {' '.join(_ENDINGS)}")
    paths = [case.name for case in (*dataset.training, *dataset.test) if Path(case.name).name != case.name]
    if paths:
        raise InputError(f"{root}: {_some(paths)} in dataset.json is no name of a case; rename it")
    described = {
        "name": dataset.name,
        "channel_names": {str(c): name for c, name in enumerate(dataset.channels)},
        "labels": dict(dataset.labels),
        "file_ending": endings[0],
    }
    kept = {key: value for key, value in content.items() if key not in _STALE}
    folds, told = _folds(dataset, partial)
    return _Found(dataset.training, dataset.test, kept | described, folds, tuple(lacking), (*notes, *told))


def _folds(dataset: Dataset, partial: bool) -> tuple[list[dict[str, list[str]]], list[str]]:
    """The folds of the dataset's own file; of a partial dataset those of the cases that are there, and what is not."""
    path = dataset.root / "splits_final.json"
    if not path.is_file():
        return [], []
    names, absent = {case.name for case in dataset.training}, set[str]()
    if partial:
        with suppress(ValueError, KeyError, TypeError):  # of which `read_folds` makes an error
            named = {str(n) for fold in read_json(path) for part in ("train", "val") for n in fold[part]}
            absent = named - names
    stand_ins = tuple(CaseFiles(name, ()) for name in sorted(absent))
    folds = read_folds(replace(dataset, training=(*dataset.training, *stand_ins)))
    if not absent:
        return folds, []
    kept = [{part: [name for name in cases if name in names] for part, cases in fold.items()} for fold in folds]
    notes = [f"{path.name}: without {_some(sorted(absent))}"]
    empty = [number for number, fold in enumerate(kept) if not (fold["train"] and fold["val"])]
    if empty:  # none is left out, since that would number the others anew
        why = f"fold {_some(empty)} has no case left to train on or to validate on"
        return [], [*notes, f"{path.name}: not written, since {why}; {_DEFAULT}"]
    return kept, notes


def _locate(source: Path, match: Callable[[Path], tuple[Path, Folders] | None], what: str) -> tuple[Path, Folders]:
    """The match in a folder or, as archives nest, up to two levels deeper; hidden and macOS's folders are left out."""
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; give the folder of the unpacked release")
    level = [source]
    for _ in range(3):
        found = [hit for hit in map(match, level) if hit is not None]
        if len(found) > 1:
            raise InputError(f"{source}: several releases; give one of {_some(folder for folder, _ in found)}")
        if found:
            return found[0]
        level = [inner for folder in level for inner in sorted(folder.iterdir()) if _is_visible(inner)]
    raise InputError(f"{source}: no {what}; give the folder of the unpacked release")


def _with_json(folder: Path) -> tuple[Path, Folders] | None:
    return (folder, {}) if (folder / "dataset.json").is_file() else None


def _is_visible(folder: Path) -> bool:
    return folder.is_dir() and not folder.name.startswith((".", "__MACOSX"))


def _layout(release: Release, folder: Path) -> tuple[Path, Folders] | None:
    """The first layout of which the folder has training images."""
    hits = (x for x in release.layouts if _files(folder / x["training"][0], release.prefixes[0]))
    return next(((folder, layout) for layout in hits), None)


def _files(folder: Path, prefix: str) -> dict[int, Path]:
    """Number to file; any other file, macOS's ``._`` twins among them, is none of the release."""
    names = {file.name.removesuffix(".nii.gz"): file for file in folder.glob(f"{prefix}*.nii.gz") if file.is_file()}
    return {number: names[f"{prefix}{number:04d}"] for number in _numbers(prefix, names)}


def _numbers(prefix: str, names: Iterable[str]) -> frozenset[int]:
    return frozenset(int(name[len(prefix) :]) for name in names if re.fullmatch(rf"{prefix}\d{{4}}", name))


def _listed(content: Mapping[str, Any], part: str) -> set[str]:
    """Names of the cases that a dataset.json lists."""
    entries = content.get(part)
    paths = [e.get("image") if isinstance(e, dict) else e for e in entries] if isinstance(entries, list) else []
    return {Path(str(path)).name.removesuffix(".nii.gz") for path in paths}


def _shortage(where: str, part: str, found: int, count: int, missing: Sequence[str]) -> list[str]:
    """What is missing of a part in one line, or no line."""
    if not missing and found >= count:
        return []
    names = f", without {_some(missing)}" if missing else ""
    return [f"{where}: {found} of {max(found, count)} {part} cases{names}"]


def _some(items: Iterable[object], limit: int = 5) -> str:
    names = [str(item) for item in items]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _write(folder: Path, found: _Found, copy: bool, progress: Callable[[str, int, int], None]) -> None:
    """The dataset, file by file."""
    ending, channels = found.content["file_ending"], range(len(found.content["channel_names"]))
    cases = [("Tr", case) for case in found.training] + [("Ts", case) for case in found.test]
    for done, (suffix, case) in enumerate(cases, 1):
        images, labels = folder / f"images{suffix}", folder / f"labels{suffix}"
        images.mkdir(parents=True, exist_ok=True)
        targets = [images / f"{case.name}_{c:04d}{ending}" for c in channels]
        if len(case.images) == len(targets):
            for image, target in zip(case.images, targets, strict=True):
                _place(image, target, copy)
        else:
            split_frames(case.images[0], targets)
        if case.labels is not None:
            labels.mkdir(exist_ok=True)
            _place(case.labels, labels / f"{case.name}{ending}", copy)
        progress("importing", done, len(cases))
    content = {**found.content, "numTraining": len(found.training)}
    (folder / "dataset.json").write_text(json.dumps(content, indent=2) + "\n")
    if found.folds:
        (folder / "splits_final.json").write_text(json.dumps(found.folds, indent=2) + "\n")


def _place(source: Path, target: Path, copy: bool) -> None:
    try:
        if copy:
            shutil.copyfile(source, target)
        else:
            target.symlink_to(source.resolve())
    except OSError as error:
        reason = error.strerror or error
        hint = f"copied ({reason})" if copy else f"linked ({reason}); give --copy"
        raise InputError(f"{source}: cannot be {hint}") from error
