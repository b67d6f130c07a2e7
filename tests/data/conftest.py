"""Datasets on disk, made of phantoms, and a plan that suits them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from s2vnet.data.plan import IntensityScheme, Plan
from s2vnet.io.files import write_image, write_labels
from s2vnet.io.geometry import LabelMap, Volume

MakePhantom = Callable[..., tuple[Volume, LabelMap]]
WriteDataset = Callable[..., Path]

LABELS = {"background": 0, "left": 1, "right": 2}


@pytest.fixture
def plan() -> Plan:
    """Axial slices at 1 mm, values unchanged, no crop, padded to multiples of 8."""
    return Plan(
        dataset="phantom",
        channels=("CT",),
        labels=LABELS,
        plane="axial",
        spacing=(1.0, 1.0),
        patch_size=(16, 16),
        intensities=(IntensityScheme(kind="ct", low=-1e6, high=1e6, mean=0, std=1),),
        crop_to_nonzero=False,
        encoder="tiny",
        stem_stride=1,
    )


@pytest.fixture
def write_json(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """``write_json(changes)``: an otherwise valid dataset.json; its folder. A value None leaves a key out."""

    def write(changes: dict[str, Any]) -> Path:
        content = {"channel_names": {"0": "MR"}, "labels": LABELS, "file_ending": ".nii.gz", **changes}
        tmp_path.joinpath("dataset.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
        return tmp_path

    return write


@pytest.fixture
def write_dataset(write_json: Callable[[dict[str, Any]], Path], make_phantom: MakePhantom) -> WriteDataset:
    """``write_dataset(names, channels, ending, **json)``: phantoms in nnU-Net's raw layout; the folder."""

    def write(
        names: Sequence[str] = ("a", "b"), channels: Sequence[str] = ("MR",), ending: str = ".nii.gz", **changes: Any
    ) -> Path:
        named = {str(c): name for c, name in enumerate(channels)}
        root = write_json({"channel_names": named, "file_ending": ending, "name": "Phantoms", **changes})
        for folder in ("imagesTr", "labelsTr"):
            (root / folder).mkdir()
        for seed, name in enumerate(names):
            volume, labels = make_phantom(channels=len(channels), seed=seed)
            for c in range(len(channels)):
                channel = Volume(volume.data[c : c + 1], volume.geometry)
                write_image(root / "imagesTr" / f"{name}_{c:04d}{ending}", channel)
            write_labels(root / "labelsTr" / f"{name}{ending}", labels)
        return root

    return write


@pytest.fixture(params=list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3))))
def any_affine(request: pytest.FixtureRequest) -> npt.NDArray[np.float64]:
    """Affines (4, 4) of all 48 orientations in turn, slightly oblique, 0.7 x 1.3 x 4 mm along the file's axes."""
    axes, signs = request.param
    c, s = np.cos(0.1), np.sin(0.1)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ (np.eye(3)[:, list(axes)] * signs * (0.7, 1.3, 4.0))
    affine[:3, 3] = (10.0, -20.0, 30.5)
    return affine
