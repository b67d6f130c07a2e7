"""Predictions and reference labels as files: pair them by name and score them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from s2vnet.data.case_files import file_stem, find_case_files, find_label_files
from s2vnet.data.dataset import read_dataset_json
from s2vnet.data.label_definitions import IGNORED, LabelDefinitions, hide_ignored, map_ignored, parse_labels
from s2vnet.errors import InputError
from s2vnet.evaluation.report import automatic_report
from s2vnet.evaluation.validate import LabelledCase
from s2vnet.io.files import read_image, read_labels
from s2vnet.io.geometry import LabelMap, Volume
from s2vnet.metrics.overlap_and_distance import class_metrics, region_metrics
from s2vnet.utils.names import some_names

_Image = TypeVar("_Image", Volume, LabelMap)
_EXTRAS = ("_probabilities", "_uncertainty")
"""Endings of what `predict` writes beside the labels of a case."""


Failed = Callable[[str, str], None]
"""Called with the name of a case and a message."""


class FilePair(NamedTuple):
    """Files of one case."""

    name: str
    images: tuple[Path, ...]
    """Images, one per channel, or one file of predicted labels."""
    labels: Path
    """Reference labels."""


def pair_files(
    images: Path, labels: Path, channels: int = 0, note: Callable[[str], None] = lambda text: None
) -> list[FilePair]:
    """Pair images, or predicted labels, with the reference labels of the same name.

    Args:
        images: A file or a folder.
        labels: The same of reference labels.
        channels: Number of channels of the images; 0 for predicted labels.
        note: Called with a line that names labelled cases without an image, if there are any.

    Raises:
        InputError: Not two files or two folders, or an image without labels.
    """
    if images.is_file() and labels.is_file():
        return [FilePair(file_stem(images), (images,), labels)]
    for folder in (images, labels):
        if not folder.is_dir():
            raise InputError(f"{folder}: give two folders, or two files")
    references = find_label_files(labels)
    cases = [case for case in find_case_files(images, channels, references) if not _is_extra(case.name, references)]
    without_labels = [case.name for case in cases if case.name not in references]
    if without_labels:
        raise InputError(f"{labels}: no labels for {some_names(without_labels)}")
    without_image = sorted(references.keys() - {case.name for case in cases})
    if without_image:
        count = f"{len(without_image)} of {len(references)}"
        note(f"{count} labelled cases are not in {images}: {some_names(without_image)}")
    return [FilePair(case.name, case.images, references[case.name]) for case in cases]


def find_definitions(
    labels: Path, dataset: Path | None = None, note: Callable[[str], None] = lambda text: None
) -> LabelDefinitions | None:
    """Label definitions of reference labels: class names, regions and ignore label.

    Args:
        labels: File or folder of reference labels.
        dataset: ``dataset.json`` or its folder; by default that beside the labels' folder, None where there is none.
        note: Called with a line about a ``dataset.json`` beside the labels' folder that cannot be used.

    Raises:
        InputError: No or damaged `dataset`.
    """
    folder = (labels if labels.is_dir() else labels.absolute().parent).absolute().parent
    root = folder if dataset is None else dataset.parent if dataset.is_file() else dataset
    try:
        return parse_labels(root / "dataset.json", read_dataset_json(root))
    except InputError as error:
        if dataset is not None:
            raise
        if (root / "dataset.json").exists():  # its ignore label, if any, is scored
            note(f"{error}; it is not used")
        return None


def read_pairs(
    pairs: Sequence[FilePair],
    *,
    ignore: int | None = None,
    fill_nonfinite: float | None = None,
    frames_as_channels: bool = False,
    failed: Failed | None = None,
) -> Iterator[LabelledCase]:
    """Read images and reference labels, with the options of :func:`s2vnet.io.files.read_image`.

    Args:
        pairs: Files of images and reference labels.
        ignore: Value of the label files that becomes :data:`s2vnet.data.label_definitions.IGNORED`.
        fill_nonfinite: As of read_image.
        frames_as_channels: As of read_image.
        failed: Called with name and message of each case that cannot be read, which is left out; by default, the
            error is raised.
    """
    read = partial(read_image, fill_nonfinite=fill_nonfinite, frames_as_channels=frames_as_channels)
    return _read_each(pairs, read, "image", ignore, failed)


def compare_labels(
    pairs: Sequence[FilePair],
    names: Sequence[str] = (),
    done: Callable[[str], None] = lambda name: None,
    *,
    regions: Mapping[str, Sequence[int]] | None = None,
    ignore: int | None = None,
    failed: Failed | None = None,
) -> dict[str, Any]:
    """Score predicted labels, as :func:`s2vnet.evaluation.report.automatic_report` reports it.

    Args:
        pairs: Files of predicted and reference labels.
        names: Class names in the order of label values from 1; further classes are named by their value.
        done: Called with the name of each scored case.
        regions: Label values by name of a union of classes that is scored, too.
        ignore: Reference value of voxels that do not count.
        failed: Called with name and message of each case that cannot be scored, which is left out; by default, the
            error is raised.

    Raises:
        InputError: Labels on different grids, or no case that can be scored.
    """
    scores, region_scores, present = {}, {}, set[int]()
    predictions = _read_each(pairs, lambda files: read_labels(files[0]), "prediction", ignore, failed)
    for name, prediction, reference in predictions:
        truth = reference.data
        predicted = prediction.data if ignore is None else hide_ignored(prediction.data, truth)
        background = {0} if ignore is None else {0, IGNORED}
        classes = sorted((set(np.unique(truth).tolist()) | set(np.unique(predicted).tolist())) - background)
        present |= set(classes)
        spacing = reference.geometry.spacing
        scores[name] = class_metrics(predicted, truth, classes, spacing)
        region_scores[name] = region_metrics(predicted, truth, regions or {}, spacing)
        done(name)
    class_names = {k: names[k - 1] if k <= len(names) else str(k) for k in sorted(present)}
    return automatic_report(scores, class_names, region_scores)


def _read_each(
    pairs: Sequence[FilePair],
    read: Callable[[tuple[Path, ...]], _Image],
    what: str,
    ignore: int | None,
    failed: Failed | None,
) -> Iterator[tuple[str, _Image, LabelMap]]:
    """Name, image or prediction, and reference labels of each pair; a pair that cannot be read goes to `failed`."""
    for name, images, labels in pairs:
        try:
            image, truth = read(images), read_labels(labels)
            truth.geometry.require_same_grid(image.geometry, f"{name}: labels and {what}")
        except InputError as error:
            if failed is None:
                raise
            failed(name, str(error))
            continue
        yield name, image, LabelMap(map_ignored(truth.data, ignore), truth.geometry)


def _is_extra(name: str, references: Collection[str]) -> bool:
    return any(name.endswith(ending) and name.removesuffix(ending) in references for ending in _EXTRAS)
