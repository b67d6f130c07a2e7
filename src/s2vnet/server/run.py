"""Running a server until it is interrupted."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from s2vnet.errors import InputError
from s2vnet.server.app import create_app
from s2vnet.server.security import MOST_BYTES_ASKED
from s2vnet.server.settings import Settings

GRACE_S = 3
"""Seconds that requests in work get when the server is stopped."""


def run(
    settings: Settings,
    started: Callable[[str, FastAPI], None],
    certificate: Path | None = None,
    key: Path | None = None,
) -> None:
    """Serve until interrupted.

    Args:
        settings: of the server.
        started: told of the address when clients can connect, and of the application.
        certificate, key: PEM files for TLS.

    Raises:
        CheckpointError: no such model.
        InputError: the address is taken or not of this machine, or a folder or certificate cannot be used.
    """
    application = create_app(settings)
    config = uvicorn.Config(
        application,
        log_level="warning",
        access_log=False,  # addresses hold session names, and the token once
        server_header=False,
        ws_max_size=MOST_BYTES_ASKED,
        timeout_graceful_shutdown=GRACE_S,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    try:
        config.load()
    except OSError as error:
        raise InputError(f"the certificate or its key cannot be used ({error})") from error
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((settings.host, settings.port))
        except OSError as error:
            raise InputError(f"cannot listen on {settings.host}:{settings.port} ({error.strerror}); --port") from error
        listening.listen()
        name = f"[{settings.host}]" if family == socket.AF_INET6 else settings.host
        address = f"http{'s' if certificate else ''}://{name}:{listening.getsockname()[1]}/"
        with _temporary(application.state.store.temporary):
            started(address, application)
            uvicorn.Server(config).run(sockets=[listening])


@contextmanager
def _temporary(folder: Path) -> Iterator[None]:
    """What this process writes for a while lies in a folder that the next server empties, should this one be killed."""
    before = tempfile.tempdir
    tempfile.tempdir = str(folder.resolve())
    try:
        yield
    finally:
        tempfile.tempdir = before
