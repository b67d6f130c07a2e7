"""The folder of the page without a server: all that the page loads is in it, under a strict policy."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from s2vnet.errors import InputError
from s2vnet.server import static_page
from s2vnet.server.static_page import build_page

MODULE = re.compile(rb"""(?:from|import)\s*\(?["'](\.[^"']+)["']""")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxscript")
    if not static_page._LIBRARY.is_file():
        pytest.skip("the viewer's libraries are missing: run `pip install -e .`")
    folder = tmp_path_factory.mktemp("page")
    build_page(folder, ["hippocampus-mr"])
    return folder


def service_worker(page: Path) -> dict[str, object]:
    """Constants at the start of the service worker."""
    lines = (page / "service_worker.js").read_text().splitlines()[:3]
    return {line.split()[1]: json.loads(line.split(" = ", 1)[1].rstrip(";")) for line in lines}


def test_the_service_worker_keeps_every_file(page: Path) -> None:
    files = {file.relative_to(page).as_posix() for file in page.rglob("*") if file.is_file()}
    assert service_worker(page)["FILES"] == sorted(files - {"service_worker.js"})
    assert {"models/hippocampus-mr/encode.onnx", "models/hippocampus-mr/decode.onnx", "index.html"} <= files


def test_every_imported_module_is_a_file(page: Path) -> None:
    own = [file for file in page.rglob("*.js") if file.parent.name != "vendor"]
    imports = [(file, name.decode()) for file in own for name in MODULE.findall(file.read_bytes())]
    assert len(imports) > 20
    assert [(file.name, name) for file, name in imports if not (file.parent / name).resolve().is_file()] == []


def test_the_policy_allows_webassembly_and_no_other_origin(page: Path) -> None:
    text = (page / "index.html").read_text("utf-8")
    (policy,) = re.findall(r'http-equiv="content-security-policy" content="([^"]+)"', text)
    assert "unsafe" not in policy.replace("'wasm-unsafe-eval'", "")
    sources = {source for part in policy.split(";") for source in part.split()[1:]}
    assert sources == {"'none'", "'self'", "'wasm-unsafe-eval'", "data:", "blob:"}
    assert "data:" not in policy.split("img-src")[0]
    assert service_worker(page)["HEADERS"]["content-security-policy"].startswith(policy)  # type: ignore[index]
    assert "<script>" not in text


def test_the_same_page_has_the_same_version(page: Path, tmp_path: Path) -> None:
    build_page(tmp_path, ["hippocampus-mr"])
    build_page(tmp_path, ["hippocampus-mr"])  # over an earlier page
    assert service_worker(tmp_path)["VERSION"] == service_worker(page)["VERSION"]


def test_a_folder_with_other_files_is_refused(page: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(InputError, match="holds other files"):
        build_page(tmp_path, ["hippocampus-mr"])
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_without_the_libraries_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static_page, "_LIBRARY", tmp_path / "absent.js")
    with pytest.raises(InputError, match="pip install -e"):
        build_page(tmp_path / "page", ["hippocampus-mr"])
    assert not (tmp_path / "page").exists()
