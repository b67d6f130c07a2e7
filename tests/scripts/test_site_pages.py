"""Pages that the documentation site generates when it is built."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from mkdocs.exceptions import Abort

import s2vnet

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def site() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "scripts" / "site_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_and_module_has_a_page(site: ModuleType) -> None:
    pages = site.api_pages()
    for name in set(s2vnet.__all__) - {"__version__"}:
        assert f".{name}\n" in pages[site.API]
    assert "::: s2vnet.io.geometry\n" in pages["api/modules/io.md"]
    assert "!^Geometry$" in pages["api/modules/io.md"]  # has its page among the public names


def test_links_that_leave_docs_do_not_break(site: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="how-to/evaluate.md"))
    text = "[a](../many-scans.md) [b](../../benchmarks/recipes)"
    monkeypatch.setattr(site, "REPOSITORY", "owner/name")
    linked = "[a](../many-scans.md) [b](https://github.com/owner/name/blob/main/benchmarks/recipes)"
    assert site.on_page_markdown(text, page) == linked
    with pytest.raises(Abort, match="benchmarks/none does not exist"):
        site.on_page_markdown("[c](../../benchmarks/none)", page)


def test_a_page_that_loads_from_another_server_is_refused(site: ModuleType, tmp_path: Path) -> None:
    config = SimpleNamespace(site_dir=str(tmp_path))
    (tmp_path / "own.html").write_text('<script src="own.js"></script><a href="https://example.org">link</a>')
    site.on_post_build(config)
    (tmp_path / "other.html").write_text('<link href="https://fonts.example.org/a.css" rel="stylesheet">')
    with pytest.raises(Abort, match=r"fonts\.example\.org"):
        site.on_post_build(config)
