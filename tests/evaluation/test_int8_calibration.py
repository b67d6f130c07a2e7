from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from s2vnet.data.case_files import CaseFiles
from s2vnet.errors import CheckpointError, InputError
from s2vnet.evaluation.int8_calibration import MIN_DICE, calibrate_int8
from s2vnet.inference.backends import to_runtime
from s2vnet.inference.segmenter import Segmenter
from s2vnet.io.files import write_image
from s2vnet.io.geometry import LabelMap, Volume
from s2vnet.model.checkpoint import load_model
from s2vnet.model.quantization import INT8, find_int8_graph, remove_int8_graph

CPU = torch.device("cpu")
MakePhantom = Callable[..., tuple[Volume, LabelMap]]


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory, make_phantom: MakePhantom) -> list[CaseFiles]:
    """Two phantoms."""
    folder = tmp_path_factory.mktemp("scans")
    for seed in range(2):
        write_image(folder / f"{seed}.nii.gz", make_phantom(shape=(36, 40, 30), seed=seed)[0])
    return [CaseFiles(str(seed), (folder / f"{seed}.nii.gz",)) for seed in range(2)]


@pytest.fixture(scope="module")
def calibrated(
    exported: Path, scans: list[CaseFiles], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, float, list[str]]:
    """The same with a graph in int8, the Dice that it was found to have, and what was noted."""
    folder = tmp_path_factory.mktemp("calibrated")
    shutil.copytree(exported, folder, dirs_exist_ok=True)
    notes: list[str] = []
    return folder, calibrate_int8(folder, scans, note=lambda name, text: notes.append(text)), notes


def _features(folder: Path, runtime: str) -> list[Tensor]:
    net = to_runtime(load_model(folder), runtime, CPU, folder)
    slices = torch.randn(2, net.config.in_channels, 40, 48, generator=torch.Generator().manual_seed(0))
    return [tensor for row in net.encode_slices(slices) for tensor in row.tensors]


def test_int8_agrees_with_float32_at_less_than_half_the_size(calibrated: tuple[Path, float, list[str]]) -> None:
    folder, dice, _ = calibrated
    assert MIN_DICE <= dice < 1
    assert (folder / f"{INT8}.onnx").stat().st_size < (folder / "encode.onnx").stat().st_size / 2
    for found, wanted in zip(_features(folder, "openvino"), _features(folder, "onnxruntime"), strict=True):
        assert not torch.equal(found, wanted)
        assert torch.cosine_similarity(found.flatten(), wanted.flatten(), 0) > 0.99


def test_images_are_segmented_in_int8(
    calibrated: tuple[Path, float, list[str]], exported: Path, make_phantom: MakePhantom
) -> None:
    volume, _ = make_phantom(shape=(36, 40, 30), seed=2)
    found, wanted = (
        Segmenter.from_pretrained(folder, runtime="openvino").segment(volume).labels().data
        for folder in (calibrated[0], exported)
    )
    assert 0 < np.mean(found != wanted) < 0.02


def test_images_outside_the_training_data_are_noted(calibrated: tuple[Path, float, list[str]]) -> None:
    assert any("in training" in text for text in calibrated[2])


def test_a_damaged_graph_is_refused_and_a_removed_one_ignored(
    calibrated: tuple[Path, float, list[str]], tmp_path: Path
) -> None:
    shutil.copytree(calibrated[0], tmp_path, dirs_exist_ok=True)
    graph = tmp_path / f"{INT8}.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="does not match the hash"):
        to_runtime(load_model(tmp_path), "openvino", CPU, tmp_path)
    graph.unlink()
    with pytest.raises(CheckpointError, match="does not match the hash"):
        find_int8_graph(tmp_path)
    remove_int8_graph(tmp_path)
    assert find_int8_graph(tmp_path) is None
    torch.testing.assert_close(_features(tmp_path, "openvino"), _features(tmp_path, "onnxruntime"), atol=2e-3, rtol=0)


def test_images_without_segmented_classes_are_refused(
    exported: Path, tmp_path: Path, phantom: tuple[Volume, LabelMap]
) -> None:
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    empty = tmp_path / "empty.nii.gz"
    geometry = phantom[0].geometry
    write_image(empty, Volume(np.zeros((1, *geometry.shape), np.float32), geometry))
    with pytest.raises(InputError, match="calibrate on images that show"):
        calibrate_int8(tmp_path, [CaseFiles("empty", (empty,))])
    assert find_int8_graph(tmp_path) is None
    assert not (tmp_path / f"{INT8}.onnx").exists()
