"""Settings without a token are for this machine only."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from s2vnet.server.settings import Settings, is_local


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("a.org", False),
    ],
)
def test_hosts_that_others_reach_need_a_token(host: str, local: bool) -> None:
    assert is_local(host) == local
    Settings(models=("m",), state=Path("s"), host=host, token="x" * 16)
    if local:
        Settings(models=("m",), state=Path("s"), host=host)
    else:
        with pytest.raises(ValidationError, match="needs a token"):
            Settings(models=("m",), state=Path("s"), host=host)
