"""A small dataset and a model trained on it for one step, once per session."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import SMALL, Main, run

from s2vnet.cli import app as cli
from s2vnet.io.files import write_image, write_labels
from s2vnet.io.geometry import Geometry, LabelMap, Volume


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Main:
    """``main(*args)``: exit code of the entry point, and lines on the error stream."""

    def call(*args: object) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["s2vnet", *(str(a) for a in args)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), capsys.readouterr().err.splitlines()

    return call


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five cases in nnU-Net's raw layout: two bright boxes in noise, 12 x 14 x 6 voxels of 1 x 1 x 3 mm."""
    root = tmp_path_factory.mktemp("raw") / "Dataset001_Boxes"
    for part in ("imagesTr", "labelsTr"):
        (root / part).mkdir(parents=True)
    geometry = Geometry((12, 14, 6), np.diag([-1.0, -1, 3, 1]))
    for n in range(5):
        labels = np.zeros(geometry.shape, np.uint8)
        labels[1:5, 2 + n % 2 : 9, 1:5] = 1
        labels[7:11, 4:11, 2:5] = 2
        image = 100.0 * labels + np.random.default_rng(n).normal(0, 5, geometry.shape)
        write_image(root / "imagesTr" / f"box{n}_0000.nii.gz", Volume(image[None].astype(np.float32), geometry))
        write_labels(root / "labelsTr" / f"box{n}.nii.gz", LabelMap(labels, geometry))
    names = {"0": "boxes"}, {"background": 0, "left box": 1, "right": 2}
    content = {"channel_names": names[0], "labels": names[1], "numTraining": 5, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="session")
def model(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of one step of training on fold 0, validated."""
    folder = tmp_path_factory.mktemp("runs") / "f0"
    out = run("train", dataset, "-o", folder, "--epochs", 1, *SMALL)
    assert "left box" in out
    assert "Dice to reach" in out
    return folder


@pytest.fixture
def image(dataset: Path) -> Path:
    return dataset / "imagesTr" / "box0_0000.nii.gz"
