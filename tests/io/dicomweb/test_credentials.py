"""Credentials come from the environment or a private file."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from s2vnet.errors import InputError

pytest.importorskip("requests", reason="requests (the extra dicomweb) is not installed")

from s2vnet.io.dicomweb.credentials import NETRC, PASSWORD, TOKEN, USER, find_credentials


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (TOKEN, USER, PASSWORD, NETRC):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def header(host: str) -> str | None:
    request = SimpleNamespace(headers={})
    return find_credentials(host)(request).headers.get("Authorization")


def test_nothing_is_sent_without_credentials() -> None:
    assert header("host") is None


def test_a_token_or_a_login_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(USER, "reader")
    with pytest.raises(InputError, match=f"{PASSWORD} is not set"):
        header("host")
    monkeypatch.setenv(PASSWORD, "pä ss")
    assert header("host") == "Basic cmVhZGVyOnDDpCBzcw=="
    monkeypatch.setenv(TOKEN, "abc")
    assert header("host") == "Bearer abc"
    monkeypatch.setenv(TOKEN, "abc\n")
    with pytest.raises(InputError, match="is one line of text"):
        header("host")


def test_a_login_of_a_private_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / ".netrc"
    file.write_text("machine host login reader password secret\n")
    file.chmod(0o600)
    assert header("host") == "Basic cmVhZGVyOnNlY3JldA=="
    assert header("other") is None
    other = file.rename(tmp_path / "archive")
    assert header("host") is None
    monkeypatch.setenv(NETRC, str(other))
    assert header("host") == "Basic cmVhZGVyOnNlY3JldA=="
    if os.name == "posix":
        other.chmod(0o640)
        with pytest.raises(InputError, match="other users may read the passwords in it; run `chmod 600`") as refused:
            header("host")
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize(("content", "message"), [(b"machine", "not a netrc file"), (b"\xff\xfe", "not a netrc file")])
def test_a_file_that_cannot_be_used(
    content: bytes, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "logins"
    monkeypatch.setenv(NETRC, str(file))
    with pytest.raises(InputError, match="no such file; correct NETRC"):
        header("host")
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(InputError, match=message):
        header("host")
