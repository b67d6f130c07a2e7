"""Exported graphs, made once for all tests of what runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2vnet.inference.backends import RUNTIMES
from s2vnet.inference.segmenter import SHIPPED
from s2vnet.model.checkpoint import load_model, save_model
from s2vnet.model.onnx_export import export


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped hippocampus model with its graphs; nobody writes there."""
    for name in ("onnxscript", *RUNTIMES[1:]):
        pytest.importorskip(name)
    trained = load_model(SHIPPED / "hippocampus-mr")
    folder = tmp_path_factory.mktemp("exported")
    save_model(folder, trained.model, trained.plan, trained.info)
    export(load_model(folder), folder)
    return folder
