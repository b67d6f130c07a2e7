"""Errors of a server's start, and its temporary files."""

from __future__ import annotations

import logging
import logging.config
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from s2vnet.errors import InputError
from s2vnet.server.run import _bind, _log_config, _temporary_files_in, run
from s2vnet.server.settings import Settings


def unexpected(*_: object) -> None:
    raise AssertionError("started")


def test_an_address_in_use_is_reported(settings: Callable[..., Settings]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=rf"^cannot listen on 127\.0\.0\.1:{port} \(.*\); --port"):
            run(settings(port=port, device="cpu"), unexpected)


def test_the_preferred_port_is_tried_first(settings: Callable[..., Settings]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with socket.socket() as first, socket.socket() as second:
        _bind(first, settings(port=0), port)
        assert first.getsockname()[1] == port
        first.listen()
        _bind(second, settings(port=0), port)
        assert second.getsockname()[1] not in (0, port)


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """Other tests' files have their usual modes."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_what_a_server_writes_is_readable_by_its_owner_alone(settings: Callable[..., Settings], tmp_path: Path) -> None:
    with pytest.raises(InputError):
        run(settings(port=0, device="cpu"), unexpected, tmp_path / "none.pem", tmp_path / "none.key")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "labels.nii.gz").write_bytes(b"")
    modes = [path.stat().st_mode & 0o777 for path in (tmp_path / "folder", tmp_path / "folder" / "labels.nii.gz")]
    assert modes == [0o700, 0o600]


def test_a_missing_certificate_is_reported(settings: Callable[..., Settings], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the certificate or its key cannot be used"):
        run(settings(port=0, device="cpu"), unexpected, tmp_path / "none.pem", tmp_path / "none.key")


def test_temporary_files_are_created_in_a_folder_for_a_while(tmp_path: Path) -> None:
    before = tempfile.gettempdir()
    with pytest.raises(RuntimeError), _temporary_files_in(tmp_path), tempfile.NamedTemporaryFile() as file:  # noqa: PT012
        assert Path(file.name).parent == tmp_path.resolve()
        raise RuntimeError
    assert tempfile.gettempdir() == before


def test_the_log_of_a_failed_request_quotes_no_header(capsys: pytest.CaptureFixture[str]) -> None:
    before = {name: list(logging.getLogger(name).handlers) for name in ("uvicorn", "uvicorn.access")}
    logging.config.dictConfig(_log_config())
    try:
        raise RuntimeError("Doe^Jane")
    except RuntimeError:
        logging.getLogger("uvicorn.error").exception("Exception in ASGI application")
    finally:
        for name, handlers in before.items():
            logging.getLogger(name).handlers = handlers
    said = capsys.readouterr().err
    assert "Exception in ASGI application" in said
    assert "RuntimeError" in said
    assert "Doe" not in said
