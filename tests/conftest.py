"""A phantom that every test may use: two ellipsoids of known place on an oblique, anisotropic grid. No torch."""

from __future__ import annotations

import os
from collections.abc import Callable

import dicom_files
import numpy as np
import numpy.typing as npt
import pytest

from s2vnet.io.geometry import Geometry, LabelMap, Volume

# exact in every process; other runtimes are tested by name, and `auto` in tests/inference/test_backends.py
os.environ["S2VNET_RUNTIME"] = "torch"

pytest_plugins = ["disks", "exported_graphs", "in_process", "orthanc_server", "random_models"]

SPACING = (0.8, 1.1, 2.5)
"""Of the phantom's voxels, mm."""

MakePhantom = Callable[..., tuple[Volume, LabelMap]]


def oblique_affine(spacing: tuple[float, float, float] = SPACING, degrees: float = 15.0) -> npt.NDArray[np.float64]:
    """Affine (4, 4) whose axes are turned by ``degrees`` about x and then about z; nearest axes are RAS."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    about_x = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    about_z = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag(spacing)
    affine[:3, 3] = (-31.5, 12.25, 7.0)
    return affine


def phantom_of(
    shape: tuple[int, int, int] = (14, 16, 9),
    affine: npt.NDArray[np.float64] | None = None,
    channels: int = 1,
    seed: int = 0,
) -> tuple[Volume, LabelMap]:
    """Volume (channels, *shape) and labels 0, 1, 2: ellipsoids at 1/3 and 2/3 of the first axis, brighter by class."""
    geometry = Geometry(shape, oblique_affine() if affine is None else affine)
    place = np.stack(np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij"), axis=-1)
    labels = np.zeros(shape, np.uint8)
    for class_id, centre in ((1, (0.3, 0.5, 0.5)), (2, (0.7, 0.5, 0.5))):
        labels[(((place - centre) / (0.18, 0.3, 0.35)) ** 2).sum(-1) <= 1] = class_id
    noise = np.random.default_rng(seed).normal(0, 5, (channels, *shape))
    return Volume((100.0 * labels + noise).astype(np.float32), geometry), LabelMap(labels, geometry)


@pytest.fixture(scope="session")
def make_phantom() -> MakePhantom:
    """:func:`phantom_of`, for tests that choose shape, affine, channels or seed."""
    return phantom_of


@pytest.fixture
def phantom() -> tuple[Volume, LabelMap]:
    """The default phantom: 14 x 16 x 9 voxels of 0.8 x 1.1 x 2.5 mm, oblique, one channel, two classes."""
    return phantom_of()


@pytest.fixture(scope="session")
def write_series() -> Callable[..., None]:
    """:func:`dicom_files.write_series`."""
    return dicom_files.write_series


@pytest.fixture(scope="session")
def write_frames() -> Callable[..., None]:
    """:func:`dicom_files.write_frames`."""
    return dicom_files.write_frames
