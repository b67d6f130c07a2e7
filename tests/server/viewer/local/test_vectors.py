"""Preprocessing and the way back in JavaScript give what they give in Python, in Node.js and in Chromium."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from listening import listening
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from s2vnet.server.app import VIEWER

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[3]
ENGINE = VIEWER / "local" / "engine"
COMPARE = "compare.mjs"
NODE = shutil.which("node")

pytestmark = pytest.mark.skipif(
    not (VIEWER / "vendor" / "nifti1.js").is_file(), reason="the viewer's libraries are missing: run `pip install -e .`"
)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("browser_vectors", ROOT / "scripts" / "browser_vectors.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compare_in_node(vectors: Path) -> list[str]:
    command = [str(NODE), str(FOLDER / COMPARE), f"{ENGINE.as_uri()}/", str(vectors)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    lines = done.stdout.splitlines()
    assert done.returncode == bool(lines), done.stderr
    return lines


def test_vectors_are_what_python_computes(script: ModuleType, tmp_path: Path) -> None:
    """As the JavaScript compares them: rounding differs between processors."""
    if NODE is None:
        pytest.skip("node is not installed")
    (tmp_path / "vectors.json").write_text(script.to_text())
    assert compare_in_node(tmp_path / "vectors.json") == []
    stored, computed = (json.loads(path.read_text()) for path in (FOLDER / "vectors.json", tmp_path / "vectors.json"))
    assert stored.keys() == computed.keys()
    for name, case in computed.items():
        assert case.keys() == stored[name].keys()
        for key in ("image", "plan", "grid", "labels", "detached", "file", "notes"):
            assert case.get(key) == stored[name].get(key), (name, key)


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_node_agrees() -> None:
    assert compare_in_node(FOLDER / "vectors.json") == []


@pytest.mark.skipif(NODE is None, reason="node is not installed")
@pytest.mark.parametrize(("name", "path"), [("flipped", ("grid", "padded", 0)), ("file, sform", ("affine", 0, 3))])
def test_a_difference_is_reported(name: str, path: tuple[Any, ...], tmp_path: Path) -> None:
    vectors = json.loads((FOLDER / "vectors.json").read_text())
    part = vectors[name]
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] += 8
    (tmp_path / "changed.json").write_text(json.dumps({name: vectors[name]}))
    assert compare_in_node(tmp_path / "changed.json") != []


def test_chromium_agrees(page: Any) -> None:
    routes = [Mount("/viewer", StaticFiles(directory=VIEWER)), Mount("/", StaticFiles(directory=FOLDER))]
    with listening(Starlette(routes=routes)) as address:
        page.goto(f"{address}/vectors.json")
        script = """async ({engine, compare}) => {
            const vectors = await (await fetch("vectors.json")).json();
            return (await import(compare)).compare(engine, vectors);
        }"""
        paths = {"engine": f"{address}/viewer/local/engine/", "compare": f"{address}/{COMPARE}"}
        assert page.evaluate(script, paths) == []
