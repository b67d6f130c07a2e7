"""The int8 encoder beside exported graphs: found, verified and removed by their manifest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from s2vnet.errors import CheckpointError
from s2vnet.model.onnx_export import MANIFEST
from s2vnet.model.quantization import INT8, find_int8_graph, remove_int8_graph


def write_manifest(folder: Path, graphs: dict[str, str]) -> None:
    (folder / MANIFEST).write_text(json.dumps({"graphs": graphs}))


def test_only_a_graph_with_the_hash_in_the_manifest_is_found(tmp_path: Path) -> None:
    graph = tmp_path / f"{INT8}.onnx"
    graph.write_bytes(b"graph")
    write_manifest(tmp_path, {"encode": "0"})
    assert find_int8_graph(tmp_path) is None
    write_manifest(tmp_path, {"encode": "0", INT8: hashlib.sha256(b"graph").hexdigest()})
    assert find_int8_graph(tmp_path) == graph
    graph.write_bytes(b"grap")
    with pytest.raises(CheckpointError, match="does not match the hash"):
        find_int8_graph(tmp_path)
    graph.unlink()
    with pytest.raises(CheckpointError, match="missing"):
        find_int8_graph(tmp_path)


def test_a_removed_graph_leaves_the_others(tmp_path: Path) -> None:
    (tmp_path / f"{INT8}.onnx").write_bytes(b"graph")
    write_manifest(tmp_path, {"encode": "0", INT8: "1"})
    for _ in range(2):
        remove_int8_graph(tmp_path)
        assert json.loads((tmp_path / MANIFEST).read_text()) == {"graphs": {"encode": "0"}}
        assert [file.name for file in tmp_path.iterdir()] == [MANIFEST]
