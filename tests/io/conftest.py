"""Grids of every kind that image files come on, and labels that fill them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from s2vnet.io.geometry import Geometry, LabelMap

SHAPE = (3, 4, 5)

LabelsOn = Callable[..., LabelMap]
Array = npt.NDArray[np.float64]


def grids() -> dict[str, Array]:
    """Affines (4, 4): plain, LPS, flipped, permuted, oblique, sheared; all anisotropic and off the origin."""
    c, s = np.cos(0.3), np.sin(0.3)
    turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    shear = np.array([[1, 0, 0], [0, 1, 0.2], [0, 0, 1]])
    axes = {
        "ras": np.eye(3),
        "lps": np.diag([-1, -1, 1]),
        "flipped": np.diag([-1, 1, 1]),
        "permuted": np.eye(3)[:, [2, 0, 1]],
        "oblique": turn,
        "oblique lps": turn @ np.diag([-1, -1, 1]),
        "sheared": shear,
    }
    found = {}
    for name, directions in axes.items():
        found[name] = np.eye(4)
        found[name][:3, :3] = directions * (0.7, 1 / 3, 2.5)
        found[name][:3, 3] = (-31.1, 200 / 7, 1e3 + 0.1)
    return found


GRIDS = grids()


@pytest.fixture(params=GRIDS)
def grid(request: pytest.FixtureRequest) -> tuple[str, Array]:
    """Name and affine of each grid in turn."""
    return request.param, GRIDS[request.param]


@pytest.fixture
def oblique() -> Array:
    """Affine of the oblique grid."""
    return GRIDS["oblique"]


@pytest.fixture
def labels_on() -> LabelsOn:
    """``labels_on(affine, dtype=uint8)``: labels (3, 4, 5) on that grid, random, with 0 and the type's largest."""

    def build(affine: Array, dtype: npt.DTypeLike = np.uint8) -> LabelMap:
        highest = np.iinfo(np.dtype(dtype)).max
        values = np.random.default_rng(0).integers(0, highest, SHAPE, endpoint=True)
        values[0, 0, :2] = 0, highest
        return LabelMap(values.astype(dtype), Geometry(SHAPE, affine))

    return build
