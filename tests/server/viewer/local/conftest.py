"""The page without a server, built once."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2vnet.server.static_page import _LIBRARY, build_page


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the page with both models; read-only."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    if not _LIBRARY.is_file():
        pytest.skip("the viewer's libraries are missing: run `pip install -e .`")
    folder = tmp_path_factory.mktemp("page")
    build_page(folder, ["abdomen-ct", "hippocampus-mr"])
    return folder
