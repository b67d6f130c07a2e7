"""Run a server until it is interrupted."""

from __future__ import annotations

import copy
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.config import LOGGING_CONFIG
from uvicorn.logging import DefaultFormatter

from s2vnet.errors import InputError, describe_calls
from s2vnet.server.app import create_app
from s2vnet.server.header_timeout import HeaderTimeoutProtocol
from s2vnet.server.security import MAX_OPERATION_BYTES
from s2vnet.server.settings import Settings

GRACE_S = 3
"""Seconds that running requests have to finish when the server stops."""


class PrivateFormatter(DefaultFormatter):
    """Format of uvicorn's log, with calls and types of errors but not their messages, which may quote a header."""

    def formatException(self, ei: Any) -> str:
        """Return the calls that led to the error of an ``exc_info``."""
        return describe_calls(ei[1])


def run(
    settings: Settings,
    started: Callable[[str, FastAPI], None],
    certificate: Path | None = None,
    key: Path | None = None,
    preferred_port: int | None = None,
) -> None:
    """Run a server until it is interrupted.

    Args:
        settings: of the server.
        started: callback with address and application, called when clients can connect.
        certificate: PEM file of the TLS certificate.
        key: PEM file of its private key.
        preferred_port: tried before the port of the settings.

    Raises:
        CheckpointError: no such model.
        InputError: a model is named twice, the address is in use or belongs to another machine, or a folder or
            certificate cannot be used.
    """
    os.umask(0o077)  # what is written from here on is the owner's alone
    application = create_app(settings)
    config = uvicorn.Config(
        application,
        log_config=_log_config(),
        log_level="warning",
        access_log=False,  # URLs contain session names, and the first one the token
        server_header=False,
        http=HeaderTimeoutProtocol,
        ws_max_size=MAX_OPERATION_BYTES,
        timeout_graceful_shutdown=GRACE_S,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    try:
        config.load()
    except OSError as error:
        raise InputError(f"the certificate or its key cannot be used ({error})") from error
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _bind(listener, settings, preferred_port)
        listener.listen()
        name = f"[{settings.host}]" if family == socket.AF_INET6 else settings.host
        address = f"http{'s' if certificate else ''}://{name}:{listener.getsockname()[1]}/"
        with _temporary_files_in(application.state.store.temporary):
            started(address, application)
            uvicorn.Server(config).run(sockets=[listener])


def _bind(listener: socket.socket, settings: Settings, preferred_port: int | None) -> None:
    """Bind to the preferred port, else to that of the settings. Raises InputError if that fails."""
    if preferred_port is not None:
        try:
            return listener.bind((settings.host, preferred_port))
        except (OSError, OverflowError):  # in use, or no port
            pass
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        raise InputError(f"cannot listen on {settings.host}:{settings.port} ({error.strerror}); --port") from error


def _log_config() -> dict[str, Any]:
    config = copy.deepcopy(LOGGING_CONFIG)
    config["formatters"]["default"]["()"] = PrivateFormatter
    return config


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Create temporary files in a folder that the next server empties, in case this server is killed."""
    previous = tempfile.tempdir
    tempfile.tempdir = str(folder.resolve())
    try:
        yield
    finally:
        tempfile.tempdir = previous
