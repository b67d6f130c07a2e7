"""Connections to archives are closed after each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def closed_archives(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close all archives that a test connects to."""
    archive = pytest.importorskip("s2vnet.io.dicomweb.archive", exc_type=ImportError)
    connected, connect = [], archive.Archive.__init__

    def remember(self: object, *args: object, **options: object) -> None:
        connected.append(self)
        connect(self, *args, **options)

    monkeypatch.setattr(archive.Archive, "__init__", remember)
    yield
    for each in connected:
        each.close()
