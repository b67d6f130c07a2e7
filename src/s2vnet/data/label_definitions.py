"""Labels of ``dataset.json``: exclusive classes, nnU-Net's ignore label, and its regions.

Reference: https://github.com/MIC-DKFZ/nnUNet, documentation/region_based_training.md and documentation/ignore_label.md.
nnU-Net trains regions, such as BraTS' whole tumor [1, 2, 3]. Label files hold one integer per voxel, however; these are
the classes here, and regions are unions of them that scores are reported for.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from s2vnet.errors import InputError
from s2vnet.utils.names import some_names

IGNORED = 255
"""Value in label maps of voxels whose class is unknown: they are not trained with and not scored."""
MAX_LABEL = IGNORED - 1
"""Largest label value of a class: labels are stored as uint8."""
_IGNORE = "ignore"
"""nnU-Net's name for the label of unknown voxels."""


@dataclass(frozen=True)
class LabelDefinitions:
    """Labels of a dataset."""

    classes: Mapping[str, int]
    """Class name to label value, background 0 included, values 0..K-1."""
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Label values by region, for regions of several values."""
    ignore: int | None = None
    """Value of voxels in label files whose class is unknown."""
    listed: Mapping[str, int | list[int]] = field(default_factory=dict)
    """Contents of nnU-Net 2's key ``labels``."""


def parse_labels(path: Path, content: Mapping[str, Any]) -> LabelDefinitions:
    """Read labels as nnU-Net 2 (name -> value or values) or the Decathlon (value -> name) writes them.

    Args:
        path: of ``dataset.json``, for messages.
        content: of ``dataset.json``.

    Raises:
        InputError: no labels, values that are no integers or not 0..K-1, or two names of one value.
    """
    listed = content.get("labels")
    if not isinstance(listed, dict) or not listed:
        raise InputError(f'{path}: needs labels, such as {{"background": 0, "liver": 1}}')
    swapped = all(str(key).lstrip("-").isdigit() for key in listed)
    swapped = swapped and not any(isinstance(value, list) for value in listed.values())
    named = [(str(v), k) for k, v in listed.items()] if swapped else [(str(k), v) for k, v in listed.items()]
    if len({name for name, _ in named}) != len(named):
        raise InputError(f"{path}: two labels have the same name")
    values = {name: _parse_values(path, name, value) for name, value in named}
    ignore = values.pop(_IGNORE, None)
    if ignore is not None and (len(ignore) != 1 or any(ignore[0] in each for each in values.values())):
        raise InputError(f"{path}: the ignore label must be one integer that no other label has")
    classes = _class_names(path, values)
    found = sorted(classes.values())
    if len(found) > MAX_LABEL + 1:
        raise InputError(f"{path}: {len(found)} labels; at most {MAX_LABEL} and background are supported")
    if found != list(range(len(found))):
        raise InputError(
            f"{path}: label values must be 0, 1, 2, ... without gaps, not {some_names(found, 20)}; renumber them "
            "there and in the label files, as for nnU-Net"
        )
    if len(found) < 2:
        raise InputError(f"{path}: labels name no class besides background")
    written = {name: each[0] if len(each) == 1 else list(each) for name, each in values.items()}
    return LabelDefinitions(
        classes=dict(sorted(classes.items(), key=lambda item: item[1])),
        regions={name: each for name, each in values.items() if len(each) > 1},
        ignore=None if ignore is None else ignore[0],
        listed=written | ({} if ignore is None else {_IGNORE: ignore[0]}),
    )


def hide_ignored(labels: npt.NDArray[Any], truth: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Set labels to :data:`IGNORED` where the truth is, so that they agree there; no copy where nothing is ignored."""
    ignored = truth == IGNORED
    return np.where(ignored, labels.dtype.type(IGNORED), labels) if ignored.any() else labels


def map_ignored(labels: npt.NDArray[Any], ignore: int | None) -> npt.NDArray[Any]:
    """Replace a file's value of unknown voxels by :data:`IGNORED`; no copy where there is none."""
    if ignore is None or ignore == IGNORED or not (ignored := labels == ignore).any():
        return labels
    return np.where(ignored, labels.dtype.type(IGNORED), labels)


def _parse_values(path: Path, name: str, value: Any) -> tuple[int, ...]:
    """Sorted label values of a class or region."""
    parts = value if isinstance(value, list) else [value]
    numbers = {number for part in parts if (number := _parse_integer(part)) is not None}
    if not parts or any(_parse_integer(part) is None for part in parts):
        shown = json.dumps(value)
        raise InputError(
            f'{path}: label "{name}" must be an integer, or a list of them for a region, not '
            f"{shown if len(shown) <= 40 else shown[:40] + '...'}"
        )
    return tuple(sorted(numbers))


def _parse_integer(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    try:
        number = int(value)
        return number if isinstance(value, str) or number == value else None
    except (OverflowError, TypeError, ValueError):
        return None


def _class_names(path: Path, values: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Name of each label value: a label of this value only, else one made of the regions that tell it from others."""
    classes: dict[str, int] = {}
    for name, numbers in values.items():
        if len(numbers) == 1:
            other = next((known for known, value in classes.items() if value == numbers[0]), None)
            if other is not None:
                raise InputError(f"{path}: {other} and {name} have the same value {numbers[0]}")
            classes[name] = numbers[0]
    regions = {name: frozenset(numbers) for name, numbers in values.items() if numbers}
    for value in sorted({number for numbers in values.values() for number in numbers} - set(classes.values())):
        name = _describe_value(value, regions)
        while name in values or name in classes:
            name = f"{name} {value}"
        classes[name] = value
    return classes


def _describe_value(value: int, regions: Mapping[str, Collection[int]]) -> str:
    """Describe a value of regions only: ``kidney without masses``."""
    inside = _extreme({name: set(numbers) for name, numbers in regions.items() if value in numbers}, smallest=True)
    shared = set.intersection(*inside.values())
    outside = {n: set(v) & shared for n, v in regions.items() if value not in v and set(v) & shared}
    outside = _extreme(outside, smallest=False)
    name = " and ".join(inside) + (f" without {' and '.join(outside)}" if outside else "")
    alone = shared.difference(*outside.values()) == {value}
    return name if alone else f"{name} {value}"


def _extreme(sets: Mapping[str, set[int]], *, smallest: bool) -> dict[str, set[int]]:
    """Sets that contain none of the others, or that none of the others contains."""
    return {
        name: one
        for name, one in sets.items()
        if not any((other < one) if smallest else (other > one) for other in sets.values())
    }
