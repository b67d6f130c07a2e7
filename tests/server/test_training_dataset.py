"""Labelled scans become a dataset in nnU-Net's layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from s2vnet.errors import InputError
from s2vnet.inference.segmenter import Segmenter
from s2vnet.io.files import read_image, write_image
from s2vnet.io.geometry import Geometry, Volume
from s2vnet.server.training_dataset import LabelledScan, write_dataset


@pytest.fixture
def scan(tmp_path: Path) -> LabelledScan:
    """An image, and some file as its labels."""
    data = np.arange(60, dtype=np.float32).reshape(1, 3, 4, 5)
    write_image(tmp_path / "image.nii.gz", Volume(data, Geometry((3, 4, 5), np.eye(4))))
    (tmp_path / "labels.nii.gz").write_bytes(b"labels")
    return LabelledScan(tmp_path / "image.nii.gz", tmp_path / "labels.nii.gz")


def test_nifti_images_are_linked_and_others_converted(scan: LabelledScan, tmp_path: Path, segmenter: Segmenter) -> None:
    write_image(tmp_path / "other.nrrd", read_image(scan.image))
    scans = [scan, LabelledScan(tmp_path / "other.nrrd", scan.labels)]
    folder = tmp_path / "dataset"
    for _ in range(2):  # the second call finds it written
        write_dataset(folder, scans, segmenter.plan, lambda: False)
    images = sorted((folder / "imagesTr").iterdir())
    assert [path.name for path in images] == ["0000_0000.nii.gz", "0001_0000.nii.gz"]
    assert [path.is_symlink() for path in images] == [True, False]
    np.testing.assert_array_equal(read_image(images[1]).data, read_image(scan.image).data)
    assert [path.read_bytes() for path in (folder / "labelsTr").iterdir()] == [b"labels"] * 2
    content = json.loads((folder / "dataset.json").read_text())
    assert (content["numTraining"], content["file_ending"]) == (2, ".nii.gz")


def test_a_stopped_job_writes_no_dataset(scan: LabelledScan, tmp_path: Path, segmenter: Segmenter) -> None:
    write_dataset(tmp_path / "dataset", [scan], segmenter.plan, lambda: True)
    assert not (tmp_path / "dataset" / "dataset.json").exists()


def test_other_channels_are_refused(tmp_path: Path, segmenter: Segmenter) -> None:
    data = np.zeros((1, 3, 4, 5), np.float32)
    write_image(tmp_path / "a.nrrd", Volume(data, Geometry((3, 4, 5), np.eye(4))))
    plan = segmenter.plan.model_copy(update={"channels": ("a", "b")})
    with pytest.raises(InputError, match="a scan of 1 channels, where the model takes 2"):
        write_dataset(tmp_path / "d", [LabelledScan(tmp_path / "a.nrrd", tmp_path)], plan, lambda: False)
