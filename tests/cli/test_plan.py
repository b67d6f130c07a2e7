"""``s2vnet plan``: plan and fingerprint of a dataset."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
from command_line import SMALL, Main, run


def test_a_plan_is_shown_and_saved(dataset: Path, tmp_path: Path) -> None:
    shown = run("plan", dataset, "-o", tmp_path / "out")
    assert json.loads(shown) == json.loads((tmp_path / "out" / "plan.json").read_text())
    assert json.loads(shown)["plane"] == "axial"
    assert json.loads((tmp_path / "out" / "fingerprint.json").read_text())["cases"] == 5


def test_a_dataset_is_named_once(dataset: Path, tmp_path: Path, main: Main) -> None:
    assert run("plan", "-d", dataset, "-o", tmp_path) == run("plan", dataset, "-o", tmp_path)
    for options in ([], [dataset, "-d", dataset]):
        assert main("plan", *options, "-o", tmp_path / "none") == (
            1,
            ["error: name one dataset folder, as an argument or by -d"],
        )


def test_contradicting_headers_are_noted_once_by_every_command(dataset: Path, tmp_path: Path, main: Main) -> None:
    """Of the images of two cases of a dataset, for `plan`, `train` and `evaluate`."""
    data = tmp_path / "Dataset001_Boxes"
    shutil.copytree(dataset, data)
    for name in ("imagesTr/box0_0000", "imagesTr/box1_0000", "labelsTr/box0", "labelsTr/box1"):
        file = data / f"{name}.nii.gz"
        image = nib.load(file)
        voxels = np.asanyarray(image.dataobj)
        changed = nib.Nifti1Image(voxels, image.affine, image.header)
        changed.set_qform(image.affine, 1)
        sizes = changed.header["pixdim"].copy()
        changed.set_sform(np.eye(4), 1)
        changed.header["pixdim"] = sizes
        changed.to_filename(file)
    text = (
        "note: box0, box1: the header's sform has voxels of 1 x 1 x 1 mm, its qform and pixdim of 1 x 1 x 3 mm; "
        "the qform is used"
    )
    labels = data / "labelsTr"
    for command in (
        ["plan", data, "-o", tmp_path / "plan"],
        ["train", data, "-o", tmp_path / "run", "-f", "all", "--epochs", 1, *SMALL],
        ["evaluate", "-i", labels, "-g", labels, "-o", tmp_path / "report.json"],
    ):
        code, lines = main(*command)
        assert (code, lines.count(text)) == (0, 1), lines
