"""The session that the server's results are compared with."""

from __future__ import annotations

import pytest

from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.io.geometry import Volume


@pytest.fixture
def own(segmenter: Segmenter, bordered: Volume) -> Session:
    """A session on the same scan, without a server."""
    return Session(segmenter, bordered)
