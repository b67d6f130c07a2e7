"""Checks of log entries against the classes and the image that they are for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress

import numpy as np
from pydantic import ValidationError

from s2vnet.errors import InputError
from s2vnet.interactive.voxelize import prompt_corners
from s2vnet.prompts import Entry, Extent, Lock, Mask, NewClass
from s2vnet.utils.validation_errors import first_error

MAX_LABEL = 255
"""Largest label value of a class."""


def check_entries(entries: Iterable[Entry], names: Mapping[int, str], shape: tuple[int, int, int]) -> None:
    """Check entries that follow each other.

    Args:
        entries: entries of a log, in its order.
        names: class names by label value before these entries.
        shape: shape (I, J, K) of the image.

    Raises:
        InputError: an entry outside the volume, damaged, of a class that does not exist where the entry stands, or a
            class that is added twice.
    """
    known = dict(names)
    for entry in entries:
        _check(entry, known, shape)
        if isinstance(entry, NewClass):
            known[entry.class_id] = entry.name


def valid_entries(entries: Iterable[Entry], names: Mapping[int, str], shape: tuple[int, int, int]) -> tuple[Entry, ...]:
    """Return entries without those that :func:`check_entries` refuses where those before them are left out, too."""
    known, valid = dict(names), []
    for entry in entries:
        with suppress(InputError):
            _check(entry, known, shape)
            valid.append(entry)
            if isinstance(entry, NewClass):
                known[entry.class_id] = entry.name
    return tuple(valid)


def _check(entry: Entry, names: Mapping[int, str], shape: tuple[int, int, int]) -> None:
    if isinstance(entry, NewClass):
        check_new_class(entry, names)
        return
    if entry.class_id not in names:
        known = ", ".join(f"{k} {name}" for k, name in names.items())
        raise InputError(f"no class {entry.class_id}; classes of the model: {known}")
    if isinstance(entry, Lock):
        return
    prompt = entry.mask if isinstance(entry, Extent) else entry
    size = " x ".join(map(str, shape))
    try:
        corners = prompt_corners(prompt)
        outside = bool((corners < 0).any() or (corners >= np.array(shape)).any())
    except OverflowError:
        outside = True
    if outside:
        raise InputError(f"{entry.kind} prompt reaches outside the volume of {size}; indices start at 0")
    if isinstance(prompt, Mask):
        prompt.voxels()


def new_class(name: str, names: Mapping[int, str]) -> NewClass:
    """Return the entry that adds a class of a name, with the next label value.

    Raises:
        InputError: a class of this name exists, the name is empty or too long, or no label value is left.
    """
    value = max(names) + 1
    if value > MAX_LABEL:
        raise InputError(f"no label value is left for {name!r}; labels go to {MAX_LABEL}")
    with validation_errors():
        entry = NewClass(class_id=value, name=name)
    check_new_class(entry, names)
    return entry


def check_new_class(entry: NewClass, names: Mapping[int, str]) -> None:
    """Raise InputError for a class whose value or name exists already."""
    if entry.class_id in names:
        raise InputError(f"there is a class {entry.class_id} already; new classes start at {max(names) + 1}")
    if entry.name.casefold() in (known.casefold() for known in names.values()):
        raise InputError(f"there is a class {entry.name!r} already")


@contextmanager
def validation_errors() -> Iterator[None]:
    """Translate errors of a prompt's own validation into one line.

    Raises:
        InputError: in place of pydantic's error.
    """
    try:
        yield
    except ValidationError as error:
        raise InputError(f"{error.title.lower()} prompt: {first_error(error)}") from None
