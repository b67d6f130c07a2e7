"""Access control, rate limits and body limits of the server. The threat model is docs/security.md.

The token is sent as a header, a cookie or a parameter, or as the first part of the path, ``/token/TOKEN/...``, by
clients that can only be given an address.

Web pages of other origins must not reach the server through a user's browser, also not by DNS rebinding
(https://owasp.org/www-community/attacks/DNS_Rebinding); clients on other machines need the token.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import re
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, quote, urlsplit

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from s2vnet.server.settings import Settings, is_local
from s2vnet.server.signed_ids import unsign

BAD_REQUEST, UNAUTHORIZED, FORBIDDEN, TOO_LARGE, TOO_MANY = 400, 401, 403, 413, 429
_POLICY_VIOLATION = 1008
RETRY_S = 0.2
"""Seconds after which a message beyond the rate limit is tried again."""
MAX_OPERATION_BYTES = 32 * 2**20
"""Largest operation, by request or WebSocket message."""
RAW_UPLOAD_PATHS = "/nninteractive/"
"""Prefix of paths that accept arrays as raw bodies; on other paths these are limited to MAX_OPERATION_BYTES."""
_TOKEN_PATH = re.compile(r"/token/(?P<token>[^/]+)(?P<path>/.*)?")
_PUBLIC_PATHS = re.compile(r"/healthz|/favicon\.ico|(/monailabel)?/auth/(token)?")
"""Paths that need no token: those of MONAI Label's clients that exchange a password for it check it themselves."""
_IMAGE_PATHS = re.compile(r"(/monailabel)?/datastore/image")
"""Paths of downloads that need no token if the image's id is signed."""
_AUTHENTICATED = "s2vnet.authenticated"
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; connect-src 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
}


class SecurityMiddleware:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings = app, settings
        self._rate = RateLimitItemPerMinute(settings.requests_per_minute)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on permitted requests, with limits on rate and size; respond to others with an error."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        scope, path_token = _without_path_token(scope)
        refusal = self._refusal(scope, path_token)
        if refusal is None:
            receive = _with_body_limit(self._with_rate_limit(scope, receive), self._body_limit(scope))
            return await self._app(scope, receive, _with_security_headers(send))
        status, detail = refusal
        if scope["type"] == "websocket":
            await receive()
            return await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": detail})
        retry = {"retry-after": "10"} if status == TOO_MANY else {}
        response = JSONResponse({"type": "problem", "detail": detail}, status, headers=retry)
        return await response(scope, receive, _with_security_headers(send))

    def _within_rate(self, scope: Scope) -> bool:
        """Count a request or message of a client address; False beyond the rate limit."""
        client = scope.get("client") or ("unknown", 0)
        return bool(self._limiter.hit(self._rate, str(client[0])))

    def _with_rate_limit(self, scope: Scope, receive: Receive) -> Receive:
        """Delay WebSocket messages beyond the rate limit; none is dropped."""

        async def receive_delayed() -> Message:
            message = await receive()
            while message["type"] == "websocket.receive" and not self._within_rate(scope):
                await asyncio.sleep(RETRY_S)
            return message

        return receive_delayed

    def _body_limit(self, scope: Scope) -> int:
        """Return the maximum body size in bytes, which is larger for uploads than for operations."""
        kind = Headers(scope=scope).get("content-type", "")
        raw = kind.startswith("application/octet-stream") and scope["path"].startswith(RAW_UPLOAD_PATHS)
        upload = raw or kind.startswith("multipart/form-data")
        return self._settings.max_upload_mb * 2**20 if upload else MAX_OPERATION_BYTES

    def _refusal(self, scope: Scope, path_token: list[str]) -> tuple[int, str] | None:
        """Return status and message of a request that is not permitted; None for a permitted one."""
        headers = Headers(scope=scope)
        try:
            host, origin = urlsplit(f"//{headers.get('host', '')}"), urlsplit(headers.get("origin") or "")
            cookie = cookie_name(host.port)
        except ValueError:
            return BAD_REQUEST, "no such address"
        if is_local(self._settings.host) and not is_local(host.hostname or ""):
            return FORBIDDEN, "the server answers to 127.0.0.1 and localhost only"
        allowed = headers.get("origin") in self._settings.allow_origins
        if "origin" in headers and origin.netloc != host.netloc and not allowed:
            return FORBIDDEN, "pages from elsewhere may not talk to this server; its operator can allow them"
        if not self._within_rate(scope):
            return TOO_MANY, "too many requests; wait a while"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > (limit := self._body_limit(scope)):
            return TOO_LARGE, f"more than the {limit // 2**20} MB that the server takes here"
        token = self._settings.token
        if token is None:
            return None
        query = scope["query_string"].decode("latin-1")
        tokens = path_token + _request_tokens(headers, cookie, query)
        scope[_AUTHENTICATED] = any(hmac.compare_digest(each.encode(), token.encode()) for each in tokens)
        if not (scope[_AUTHENTICATED] or _PUBLIC_PATHS.fullmatch(scope["path"]) or self._is_signed(scope, query)):
            return (
                UNAUTHORIZED,
                "this server needs its token: Authorization: Bearer TOKEN, or /?token=TOKEN in a browser",
            )
        return None

    def _is_signed(self, scope: Scope, query: str) -> bool:
        """Whether a request downloads an image whose id shows that its client was given it."""
        images = parse_qs(query).get("image", [])
        download = scope.get("method") in ("GET", "HEAD") and _IMAGE_PATHS.fullmatch(scope["path"]) is not None
        return download and len(images) == 1 and unsign(images[0], self._settings.token) is not None


def is_authenticated(scope: Scope) -> bool:
    """Whether a request was sent with the server's token."""
    return bool(scope.get(_AUTHENTICATED, False))


def _without_path_token(scope: Scope) -> tuple[Scope, list[str]]:
    """Return a request without the token in its path, and the token, if it has one."""
    match = _TOKEN_PATH.fullmatch(scope["path"])
    if match is None:
        return scope, []
    path = match["path"] or "/"
    return {**scope, "path": path, "raw_path": quote(path).encode()}, [match["token"]]


def cookie_name(port: int | None) -> str:
    """Return the name of the token's cookie; it contains the port, since all ports of a host share their cookies."""
    return f"s2vnet_token_{port or 'default'}"


def _request_tokens(headers: Mapping[str, str], cookie: str, query: str) -> list[str]:
    """Return the tokens of a request: from header, cookie and query."""
    kind, _, credentials = headers.get("authorization", "").partition(" ")
    tokens = [credentials.strip()] if kind.lower() == "bearer" else []
    if kind.lower() == "basic":  # ITK-SNAP can only send what libcurl makes of http://any:TOKEN@host
        with contextlib.suppress(ValueError):
            tokens.append(base64.b64decode(credentials, validate=True).decode().partition(":")[2])
    with contextlib.suppress(CookieError):
        tokens += [morsel.value for name, morsel in SimpleCookie(headers.get("cookie", "")).items() if name == cookie]
    return [*tokens, *parse_qs(query).get("token", [])]


def _with_body_limit(receive: Receive, limit: int) -> Receive:
    """Receive at most `limit` bytes of a request's body, whatever its headers claim."""
    received = 0

    async def receive_limited() -> Message:
        nonlocal received
        message = await receive()
        if message["type"] == "http.request":
            received += len(message.get("body", b""))
            if received > limit:
                raise HTTPException(TOO_LARGE, "more than this server takes")
        return message

    return receive_limited


def _with_security_headers(send: Send) -> Send:
    """Add the security headers to responses that do not set them."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            names = {name for name, _ in message["headers"]}
            extra = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in names]
            message = {**message, "headers": [*message["headers"], *extra]}
        await send(message)

    return send_with_headers
