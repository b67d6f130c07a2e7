"""Who may talk to the server, and how much. The threat model is docs/security.md.

A page from elsewhere that a browser has open must not reach the server (by its origin, or by a name that resolves to
127.0.0.1: https://owasp.org/www-community/attacks/DNS_Rebinding); beyond this machine nobody does without the token.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from s2vnet.server.settings import Settings, is_local

MALFORMED, REFUSED, FOREIGN, TOO_LARGE, TOO_MANY = 400, 401, 403, 413, 429
_CLOSE_POLICY = 1008
PAUSE_S = 0.2
"""Until a message that came too early is tried again."""
MOST_BYTES_ASKED = 32 * 2**20
"""Of one operation, by request or WebSocket."""
ARRAYS = "/nninteractive/"
"""Paths that take arrays as they are; elsewhere such a body would be held in memory to be refused."""
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; connect-src 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


class SecurityMiddleware:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings = app, settings
        self._rate = RateLimitItemPerMinute(settings.requests_per_minute)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is allowed, with a bound on what it may send; answer the rest."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        problem = self._problem(scope)
        if problem is None:
            paced = self._paced(scope, receive)
            return await self._app(scope, _bounded(paced, self._limit(scope)), _headed(send))
        status, detail = problem
        if scope["type"] == "websocket":
            await receive()
            return await send({"type": "websocket.close", "code": _CLOSE_POLICY, "reason": detail})
        again = {"retry-after": "10"} if status == TOO_MANY else {}
        return await JSONResponse({"type": "problem", "detail": detail}, status, headers=again)(
            scope, receive, _headed(send)
        )

    def _hit(self, scope: Scope) -> bool:
        """Count a request or message of an address; False when it has had as many as it may."""
        client = scope.get("client") or ("unknown", 0)
        return bool(self._limiter.hit(self._rate, str(client[0])))

    def _paced(self, scope: Scope, receive: Receive) -> Receive:
        """Receive messages of a WebSocket no faster than requests may come; none is lost, the client has to wait."""

        async def paced() -> Message:
            message = await receive()
            while message["type"] == "websocket.receive" and not self._hit(scope):
                await asyncio.sleep(PAUSE_S)
            return message

        return paced

    def _limit(self, scope: Scope) -> int:
        """Bytes that a body may have: a file's, or an operation's."""
        kind = Headers(scope=scope).get("content-type", "")
        array = kind.startswith("application/octet-stream") and scope["path"].startswith(ARRAYS)
        files = array or kind.startswith("multipart/form-data")
        return self._settings.max_upload_mb * 2**20 if files else MOST_BYTES_ASKED

    def _problem(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        try:
            host, origin = urlsplit(f"//{headers.get('host', '')}"), urlsplit(headers.get("origin") or "")
            cookie = cookie_name(host.port)
        except ValueError:
            return MALFORMED, "no such address"
        if is_local(self._settings.host) and not is_local(host.hostname or ""):
            return FOREIGN, "the server answers to 127.0.0.1 and localhost only"
        if "origin" in headers and origin.netloc != host.netloc:
            return FOREIGN, "pages from elsewhere may not talk to this server"
        if not self._hit(scope):
            return TOO_MANY, "too many requests; wait a while"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > (limit := self._limit(scope)):
            return TOO_LARGE, f"more than the {limit // 2**20} MB that the server takes here"
        token = self._settings.token
        if token is None or scope["path"] in ("/healthz", "/favicon.ico"):
            return None
        given = _given_tokens(headers, cookie, scope["query_string"].decode("latin-1"))
        if not any(hmac.compare_digest(one.encode(), token.encode()) for one in given):
            return REFUSED, "this server needs its token: Authorization: Bearer TOKEN, or /?token=TOKEN in a browser"
        return None


def cookie_name(port: int | None) -> str:
    """The token's cookie; cookies of one machine are shared by its ports, so the port is part of the name."""
    return f"s2vnet_token_{port or 'default'}"


def _given_tokens(headers: Mapping[str, str], cookie: str, query: str) -> list[str]:
    """What a request gives as token: header, cookie and query."""
    kind, _, given = headers.get("authorization", "").partition(" ")
    found = [given.strip()] if kind.lower() == "bearer" else []
    if kind.lower() == "basic":  # libcurl's for http://any:TOKEN@host: all that ITK-SNAP can send
        with contextlib.suppress(ValueError):
            found.append(base64.b64decode(given, validate=True).decode().partition(":")[2])
    with contextlib.suppress(CookieError):
        found += [crumb.value for name, crumb in SimpleCookie(headers.get("cookie", "")).items() if name == cookie]
    return [*found, *parse_qs(query).get("token", [])]


def _bounded(receive: Receive, limit: int) -> Receive:
    """Receive no more than so many bytes of a request's body, whatever its headers say."""
    taken = 0

    async def bounded() -> Message:
        nonlocal taken
        message = await receive()
        if message["type"] == "http.request":
            taken += len(message.get("body", b""))
            if taken > limit:
                raise HTTPException(TOO_LARGE, "more than this server takes")
        return message

    return bounded


def _headed(send: Send) -> Send:
    """Send with the headers that keep pages apart."""

    async def headed(message: Message) -> None:
        if message["type"] == "http.response.start":
            names = {name for name, _ in message["headers"]}
            extra = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in names]
            message = {**message, "headers": [*message["headers"], *extra]}
        await send(message)

    return headed
