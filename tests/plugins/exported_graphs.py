"""Exported graphs, created once for all tests that run or quantize them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from filelock import FileLock

from s2vnet.inference.backends import RUNTIMES
from s2vnet.inference.segmenter import BUNDLED_MODELS
from s2vnet.model.checkpoint import load_model, save_model
from s2vnet.model.onnx_export import export_onnx, has_graphs


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the bundled hippocampus model with its graphs, created by one of the test processes; read-only."""
    for name in ("onnxscript", *RUNTIMES[1:]):
        pytest.importorskip(name)
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "exported"
    with FileLock(f"{folder}.lock"):
        if not has_graphs(folder):
            trained = load_model(BUNDLED_MODELS / "hippocampus-mr")
            folder.mkdir(exist_ok=True)
            save_model(folder, trained.model, trained.plan, trained.info)
            export_onnx(load_model(folder), folder)
    return folder
