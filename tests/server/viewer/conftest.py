"""A page of the viewer in Chromium for every test, with a server of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from viewer_page import ARGUMENTS, CHROMIUM, PATIENCE_S, Viewer, running

from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.io.geometry import Volume
from s2vnet.server.app import VIEWER
from s2vnet.server.settings import Settings

SIZE = {"width": 1280, "height": 720}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Time limit, and warnings of libraries that these tests alone use."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(300))
            item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning:websockets.*"))
            item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning:uvicorn.*"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    if not (VIEWER / "vendor" / "niivue.js").is_file():
        pytest.skip("no NiiVue: run `pip install -e .`")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport=SIZE)
    context.set_default_timeout(PATIENCE_S * 1000)
    yield context.new_page()
    context.close()


@pytest.fixture
def viewer(page: Any, settings: Callable[..., Settings], segmenter: Segmenter) -> Iterator[Viewer]:
    with running(settings(), segmenter) as port:
        viewer = Viewer(page, port)
        yield viewer
        assert viewer.errors == []
        assert viewer.hosts == {f"127.0.0.1:{port}"}


@pytest.fixture
def own(segmenter: Segmenter, bordered: Volume) -> Session:
    """The same, without a server."""
    return Session(segmenter, bordered)
