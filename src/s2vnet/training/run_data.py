"""Data of a training run: its cases, its split and its files, recorded in ``cases.json``.

A resumed run keeps the cases and the split that it began with. The files are known by their SHA-256, so that a case
that was changed or renamed meanwhile is not taken for the one that the network was trained with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from s2vnet.data.case_files import CaseFiles, file_stem
from s2vnet.data.dataset import Dataset, select_fold
from s2vnet.errors import InputError
from s2vnet.io.files import DETACHED_ENDINGS
from s2vnet.model.checkpoint import DESCRIPTION
from s2vnet.utils.json_io import model_to_json, read_json
from s2vnet.utils.names import some_names
from s2vnet.utils.validation_errors import first_error

CASES = "cases.json"
_NEW_RUN = "restore what the run began with, or start a new run in another folder"

Progress = Callable[[int, int], None]
"""Called with the numbers of checked and of all cases."""


class RunData(BaseModel):
    """Cases, split and files of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    fold: str
    """Fold by number, or ``all``."""
    training: tuple[str, ...]
    """Names of the training cases, in the order in which clips are drawn from them."""
    held_out: tuple[str, ...]
    """Names of the held-out cases."""
    fill_nonfinite: float | None = None
    """Value that replaces NaN and infinite voxels."""
    files: dict[str, tuple[str, ...]]
    """By case, SHA-256 of its image files in order of channels, then of its label file."""

    @property
    def cases(self) -> tuple[str, ...]:
        """Names of all cases."""
        return (*self.training, *self.held_out)

    def digest(self) -> str:
        """SHA-256 of the record; a checkpoint belongs to one."""
        return hashlib.sha256(model_to_json(self, indent=None)).hexdigest()


def new_run_data(
    dataset: Dataset, fold: str, fill_nonfinite: float | None = None, progress: Progress = lambda done, total: None
) -> RunData:
    """Data of a new run on a fold.

    Raises:
        InputError: as :func:`s2vnet.data.dataset.select_fold`, or a file cannot be read.
    """
    training, held_out = select_fold(dataset, fold)
    files = _hash_cases([dataset.case(name) for name in (*training, *held_out)], progress)
    return RunData(
        fold=fold, training=tuple(training), held_out=tuple(held_out), fill_nonfinite=fill_nonfinite, files=files
    )


def resumed_run_data(
    folder: Path,
    dataset: Dataset,
    fold: str | None = None,
    fill_nonfinite: float | None = None,
    progress: Progress = lambda done, total: None,
) -> tuple[RunData, list[str]]:
    """Data of a run that has begun, and notes about how the dataset differs from it.

    Args:
        folder: of the run.
        dataset: that the run is continued with.
        fold: fold that was asked for; None for the run's own.
        fill_nonfinite: as of the run.
        progress: called with the numbers of checked and of all cases.

    Raises:
        InputError: another fold or fill value, or a case that is missing, renamed or changed.
    """
    data = _read_run_data(folder)
    if data is None:
        return _unrecorded_run_data(folder, dataset, fold, fill_nonfinite, progress)
    if fold is not None and fold != data.fold:
        raise InputError(f"{folder}: this run is of fold {data.fold}, not {fold}; leave out -f, or {_NEW_RUN}")
    if fill_nonfinite != data.fill_nonfinite:
        given = "no --fill-nan" if data.fill_nonfinite is None else f"--fill-nan {data.fill_nonfinite:g}"
        raise InputError(f"{folder}: this run began with {given}; give the same, or start a new run")
    present = {case.name: case for case in dataset.training}
    others = [name for name in present if name not in data.files]
    missing = [name for name in data.cases if name not in present]
    if missing:
        raise InputError(_missing_cases(dataset, data, missing, [present[name] for name in others]))
    files = _hash_cases([present[name] for name in data.cases], progress)
    changed = [name for name in data.cases if files[name] != data.files[name]]
    if changed:
        what = "labels" if files[changed[0]][:-1] == data.files[changed[0]][:-1] else "image"
        raise InputError(
            f"{dataset.root}: {some_names(changed)} changed since this run began ({what} of {changed[0]}); {_NEW_RUN}"
        )
    return data, _notes(dataset, data, others)


def _read_run_data(folder: Path) -> RunData | None:
    path = folder / CASES
    if not path.exists():
        return None
    try:
        return RunData.model_validate(read_json(path))
    except (OSError, ValueError) as error:
        reason = first_error(error) if isinstance(error, ValidationError) else "not valid JSON"
        raise InputError(f"{path}: damaged ({reason}); restore it, or start a new run") from error


def _unrecorded_run_data(
    folder: Path, dataset: Dataset, fold: str | None, fill_nonfinite: float | None, progress: Progress
) -> tuple[RunData, list[str]]:
    """Data of a run of an earlier version, which did not record it: the dataset as it is now."""
    info = {}
    if (folder / DESCRIPTION).is_file():
        try:
            info = dict(read_json(folder / DESCRIPTION)["info"])
        except (OSError, ValueError, KeyError, TypeError):
            info = {}  # reported when the model is read
    chosen = str(info.get("fold", "0")) if fold is None else fold
    data = new_run_data(dataset, chosen, fill_nonfinite, progress)
    expected = (str(info.get("fold", chosen)), info.get("training_cases", len(data.training)))
    if expected != (chosen, len(data.training)):
        raise InputError(
            f"{folder}: this run has {expected[1]} training cases of fold {expected[0]}, the dataset now "
            f"{len(data.training)} of fold {chosen}; {_NEW_RUN}"
        )
    return data, [f"{folder}: of an earlier version, without {CASES}; the dataset is taken as it is now"]


def _missing_cases(dataset: Dataset, data: RunData, missing: Sequence[str], others: Sequence[CaseFiles]) -> str:
    digests = {files: name for name, files in _hash_cases(others).items()}
    renamed = [f"{name} is now {digests[data.files[name]]}" for name in missing if data.files[name] in digests]
    hint = f" ({some_names(renamed)})" if renamed else ""
    return f"{dataset.root}: without {some_names(missing)}, which this run began with{hint}; {_NEW_RUN}"


def _notes(dataset: Dataset, data: RunData, others: Sequence[str]) -> list[str]:
    if others:
        return [f"{some_names(others)}: added since this run began, not used; start a new run to train on them"]
    try:
        split = select_fold(dataset, data.fold)
    except InputError:
        split = None
    if split is None or (set(split[0]), set(split[1])) != (set(data.training), set(data.held_out)):
        return [f"the folds have changed since this run began; its own split is kept ({CASES})"]
    return []


def _hash_cases(
    cases: Sequence[CaseFiles], progress: Progress = lambda done, total: None
) -> dict[str, tuple[str, ...]]:
    digests = {}
    for number, case in enumerate(cases, 1):
        files = [*case.images, *([] if case.labels is None else [case.labels])]
        digests[case.name] = tuple(map(_hash_file, files))
        progress(number, len(cases))
    return digests


def _hash_file(file: Path) -> str:
    """SHA-256 of an image file, of a header with the files of its voxels, or of a folder's files."""
    parts = sorted(each for each in file.iterdir() if each.is_file()) if file.is_dir() else [file]
    if file.name.lower().endswith(DETACHED_ENDINGS):
        stem = file_stem(file)
        others = (other for other in file.parent.iterdir() if other != file)
        parts += sorted(other for other in others if stem in (other.stem, Path(other.stem).stem))  # .raw or .raw.gz
    digest = hashlib.sha256()
    for part in parts:
        with part.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
