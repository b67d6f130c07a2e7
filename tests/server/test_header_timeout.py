"""Slow headers end the connection; slow bodies and live streams do not."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from listening import listening

from s2vnet.server import header_timeout
from s2vnet.server.header_timeout import HeaderTimeoutProtocol

LIMIT_S = 0.3


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Respond with the size of the body."""
    if scope["type"] != "http":
        return
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    body = str(size).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A connection to a server with a short time limit."""
    monkeypatch.setattr(header_timeout, "HEADERS_S", LIMIT_S)
    with listening(application, lifespan="off", http=HeaderTimeoutProtocol) as address:
        where = urlsplit(address)
        with socket.create_connection((where.hostname, where.port), timeout=10) as connection:
            yield connection


def receive_until(connection: socket.socket, ending: bytes) -> None:
    """Receive an answer; an error if the server closes the connection before its end."""
    answer = b""
    while not answer.endswith(ending):
        part = connection.recv(1000)
        assert part, "closed"
        answer += part


def is_closed(connection: socket.socket) -> bool:
    """Whether the server closes the connection within its time limit and some more."""
    connection.settimeout(LIMIT_S * 10)
    try:
        return connection.recv(1000) == b""
    except ConnectionResetError:
        return True


def test_a_connection_without_a_request_is_closed(connection: socket.socket) -> None:
    assert is_closed(connection)


def test_headers_byte_by_byte_are_cut_off(connection: socket.socket) -> None:
    with pytest.raises(OSError):  # noqa: PT011, PT012
        for byte in b"GET / HTTP/1.1\r\n" + b"x: " + b"y" * 100:
            connection.sendall(bytes([byte]))
            time.sleep(LIMIT_S / 10)


def test_the_second_request_of_a_connection_has_the_limit_too(connection: socket.socket) -> None:
    connection.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    receive_until(connection, b"\r\n\r\n0")
    connection.sendall(b"GET / HT")
    assert is_closed(connection)


def test_a_slow_body_is_received(connection: socket.socket) -> None:
    connection.sendall(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\r\n")
    for byte in b"slowly":
        time.sleep(LIMIT_S / 2)
        connection.sendall(bytes([byte]))
    receive_until(connection, b"\r\n\r\n6")
