"""Prompts of every kind on the random model's image, and variants of that model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from s2vnet.prompts import Box, Entry, Lasso, Lock, Mask, Point, Scribble

Labels = npt.NDArray[np.uint8]
SHAPE = (18, 20, 13)
SQUARE = ((4, 5, 6), (4, 9, 6), (8, 9, 6), (8, 5, 6))


def mask_of(*corners: tuple[int, int]) -> npt.NDArray[np.bool_]:
    mask = np.zeros(SHAPE, bool)
    mask[tuple(slice(a, b) for a, b in corners)] = True
    return mask


PROMPTS: dict[str, Entry] = {
    "point": Point(class_id=2, voxel=(5, 9, 4)),
    "not": Point(class_id=0, voxel=(6, 7, 8), positive=False),
    "scribble": Scribble(class_id=1, voxels=((12, 9, 5), (12, 10, 5), (13, 10, 5))),
    "lasso": Lasso(class_id=2, axis=2, vertices=SQUARE),
    "mask": Mask.from_array(mask_of((9, 12), (6, 9), (7, 10)), 1),
    "not mask": Mask.from_array(mask_of((3, 14), (3, 14), (4, 6)), 0, False),
    "box": Box(class_id=1, start=(3, 4, 3), stop=(11, 12, 9)),
    "lock": Lock(class_id=2),
}


VARIANTS = ("each slice", "slices joined", "small parts left out", "tried both ways")
plain_only = pytest.mark.parametrize("segmenter", VARIANTS[:1], indirect=True)
"""For what does not depend on the model."""


def varied(name: str, values: Iterable[Any], *, indirect: bool = False) -> pytest.MarkDecorator:
    """Every value with the model as it is, the last one with its variants too."""
    values = list(values)
    cases = [(VARIANTS[0], value) for value in values] + [(variant, values[-1]) for variant in VARIANTS[1:]]
    return pytest.mark.parametrize(("segmenter", name), cases, indirect=["segmenter", *[name] * indirect])
