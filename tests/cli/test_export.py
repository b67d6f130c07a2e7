"""``s2vnet export``: a model is copied beside its graphs, and never over another model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command_line import Main, run


def test_the_model_is_copied_beside_its_graphs(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s2vnet.model.onnx_export.export_onnx", lambda *_: None)
    monkeypatch.setattr("s2vnet.model.quantization.remove_int8_graph", lambda _: None)  # there are no graphs
    assert run("export", "-m", model, "-o", tmp_path / "a") == f"{tmp_path / 'a'}\n"
    assert {file.name for file in (tmp_path / "a").iterdir()} == {"model.json", "model.safetensors"}
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (model / file.name).read_bytes()


def test_another_model_is_not_replaced(model: Path, tmp_path: Path, main: Main) -> None:
    other = tmp_path / "other"
    shutil.copytree(model, other)
    said = [f"error: {other} holds another model; choose another folder"]
    assert main("export", "-m", "hippocampus-mr", "-o", other) == (1, said)
    assert (other / "model.json").read_bytes() == (model / "model.json").read_bytes()
