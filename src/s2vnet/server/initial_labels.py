"""Labels that a session starts from instead of the model's, such as those of an earlier day or of another program."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from s2vnet.errors import InputError
from s2vnet.interactive.check_entries import MAX_LABEL
from s2vnet.interactive.history import Log
from s2vnet.io.files import count_voxels, read_label_names, read_labels, write_labels
from s2vnet.io.geometry import Geometry, LabelMap
from s2vnet.prompts import Entry, Extent, NewClass

FILE = "initial.nii.gz"
MAX_ADDED = 100
"""Largest number of classes that labels may add to the model's."""


def read_given_labels(path: Path, geometry: Geometry, max_voxels: int) -> tuple[LabelMap, Mapping[int, str]]:
    """Read a label file on an image's grid, and the class names that it states.

    Raises:
        InputError: not readable, too large, or on another grid.
    """
    if count_voxels(path) > max_voxels:
        raise InputError("the labels have more voxels than this server opens")
    labels = read_labels(path)
    geometry.require_same_grid(labels.geometry, "the scan and these labels")
    return LabelMap(labels.data, geometry), read_label_names(path)


def split_labels(labels: LabelMap, names: Mapping[int, str], network: Mapping[int, str]) -> tuple[LabelMap, Log]:
    """Split labels into those of the model's classes, and entries that add all others with their voxels.

    Args:
        labels: label map.
        names: names of its values, where its file states them; they decide what is a class of the model.
        network: names of the model's classes by label value.

    Raises:
        InputError: more than `MAX_ADDED` other classes, or no label value is left for one.
    """
    known = {name.casefold(): value for value, name in network.items()}
    initial, entries = np.zeros(labels.data.shape, np.uint8), list[Entry]()
    others = list[int]()
    for value in map(int, np.unique(labels.data)):
        name = names.get(value, network.get(value, ""))
        if name.casefold() in known:
            initial[labels.data == value] = known[name.casefold()]
        elif value:
            others.append(value)
    if len(others) > MAX_ADDED:
        raise InputError(f"{len(others)} label values are no class of the model; are these labels?")
    taken, free = set(network), max(network) + 1
    for value in others:
        class_id = value if value <= MAX_LABEL and value not in taken else free
        if class_id > MAX_LABEL:
            raise InputError(f"no label value is left for {value}; labels go to {MAX_LABEL}")
        taken.add(class_id)
        free = max(free, class_id + 1)
        name = names.get(value, f"label {value}")
        entries += [NewClass(class_id=class_id, name=name), Extent.from_array(labels.data == value, class_id)]
    return LabelMap(initial, labels.geometry), tuple(entries)


def write_initial(folder: Path, labels: LabelMap) -> None:
    """Keep the labels with a session's record. Raises InputError when they cannot be written."""
    write_labels(folder / FILE, labels)


def read_initial(folder: Path, geometry: Geometry) -> LabelMap | None:
    """Return the labels that a session starts from; None for the model's. Raises InputError for a damaged file."""
    path = folder / FILE
    if not path.is_file():
        return None
    return LabelMap(read_labels(path).data, geometry)
