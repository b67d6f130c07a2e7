"""What napari is given of a scan; napari itself is not needed for that."""

from __future__ import annotations

import ast
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from s2vnet.integrations.napari.reader import GEOMETRY, get_reader, read
from s2vnet.io.files import ENDINGS, read_image, write_image
from s2vnet.io.geometry import LabelMap, Volume


def test_the_manifest_names_what_is_there() -> None:
    manifest = json.loads(Path(get_reader.__code__.co_filename).with_name("napari.json").read_text())
    contributed = manifest["contributions"]
    names = {command["id"]: command["python_name"] for command in contributed["commands"]}
    assert {part["command"] for kind in ("readers", "writers", "widgets") for part in contributed[kind]} == set(names)
    for name in names.values():
        module, function = name.split(":")
        spec = find_spec(module)
        assert spec is not None
        tree = ast.parse(Path(str(spec.origin)).read_text())
        assert function in {part.name for part in tree.body if isinstance(part, ast.FunctionDef)}
    assert set(contributed["readers"][0]["filename_patterns"]) == {f"*{ending}" for ending in ENDINGS}


def test_only_scans_are_read(phantom: tuple[Volume, LabelMap], write_series: Any, tmp_path: Path) -> None:
    scan = tmp_path / "scan.mha"
    write_image(scan, phantom[0])
    series, other = tmp_path / "series", tmp_path / "other"
    series.mkdir()
    other.mkdir()
    write_series(series, np.arange(4 * 5 * 3, dtype=np.int16).reshape(4, 5, 3))
    assert get_reader(path=str(series)) is read  # by this name napari gives it
    assert get_reader([str(scan), str(scan)]) is read
    assert get_reader(str(other)) is None
    assert get_reader([str(scan), str(tmp_path / "photo.png")]) is None
    np.testing.assert_array_equal(read(str(series))[0][0], read_image(series).data[0])
    channels = read([str(scan), str(scan)])
    assert len(channels) == 2
    for data, given, kind in channels:
        assert kind == "image"
        np.testing.assert_array_equal(data, phantom[0].data[0])
        assert given["metadata"][GEOMETRY].same_grid(phantom[0].geometry)
        np.testing.assert_allclose(given["affine"], phantom[0].geometry.affine, atol=1e-5)
