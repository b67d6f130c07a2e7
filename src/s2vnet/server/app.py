"""ASGI application: API, protocols of other clients, and viewer, behind the security middleware."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware

from s2vnet._version import __version__
from s2vnet.errors import CapacityError, InputError, StorageError, describe_calls
from s2vnet.server import api
from s2vnet.server.messages import (
    is_disk_full,
    private_folders,
    without_folders,
)
from s2vnet.server.model_library import ModelLibrary
from s2vnet.server.protocols import itksnap, monailabel, nninteractive
from s2vnet.server.security import SecurityMiddleware, cookie_name
from s2vnet.server.session_store import SessionStore
from s2vnet.server.settings import Settings
from s2vnet.utils.validation_errors import first_error

_log = logging.getLogger(__name__)
VIEWER = Path(__file__).parent / "viewer"
_SECONDS_PER_DAY = 86400
MAINTENANCE_S = 5.0
"""Seconds between two checks of leases, memory and old files."""


def create_app(settings: Settings, models: ModelLibrary | None = None) -> FastAPI:
    """Create the ASGI application.

    Args:
        settings: of the server.
        models: used instead of the settings' models.

    Raises:
        CheckpointError: no such model.
        InputError: a folder that does not exist or is not writable, or a model that is named twice.
    """
    if models is None:
        models = ModelLibrary.from_pretrained(settings.models, settings.device, settings.runtime)
    store = SessionStore(settings, models)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        maintenance = asyncio.create_task(_maintain(store, app.state.nninteractive))
        yield
        maintenance.cancel()
        await anyio.to_thread.run_sync(app.state.monailabel.close)
        store.close()

    app = FastAPI(title="s2vnet", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.store = store
    app.add_middleware(SecurityMiddleware, settings=settings)
    if settings.allow_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allow_origins,
            allow_methods=("GET", "HEAD", "POST", "PUT", "DELETE"),
            allow_headers=("Accept", "Authorization", "Content-Type"),
            expose_headers=("Content-Disposition",),
            allow_private_network=True,
        )
    app.add_exception_handler(InputError, _input_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(OSError, _disk_error)
    app.state.nninteractive = nninteractive.LeasedClients(store)
    app.state.monailabel = monailabel.MonaiLabel(store)
    app.state.itksnap = itksnap.SnapClients(store)
    app.include_router(api.router)
    for prefix in ("/monailabel", ""):
        app.include_router(monailabel.router, prefix=prefix)
    for path in ("/monailabel", "/monailabel/"):
        app.add_api_route(path, monailabel.welcome, include_in_schema=False)
    for path in ("", "/{label}", "/{label}/{axes}"):
        app.include_router(nninteractive.router, prefix=f"/nninteractive{path}")
    app.include_router(itksnap.router)
    app.add_api_route("/healthz", _health, include_in_schema=False)
    app.add_api_route("/", _page, include_in_schema=False)
    app.mount("/", GZipMiddleware(_ViewerFiles(directory=VIEWER), compresslevel=6), name="viewer")
    return app


class _ViewerFiles(StaticFiles):
    """The viewer's files, which browsers may keep as long as they ask whether they have changed."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """Return a file with its caching policy."""
        response = super().file_response(*args, **kwargs)
        response.headers["cache-control"] = "no-cache"
        return response


def viewer_hint() -> str | None:
    """Return how to install the viewer's library if s2vnet was built without it; None if it is installed."""
    if (VIEWER / "vendor" / "niivue.js").is_file():
        return None
    return "the viewer's library (NiiVue) is missing: in the clone of s2vnet, run `pip install -e .`, which brings it"


async def _maintain(store: SessionStore, clients: nninteractive.LeasedClients) -> None:
    while True:
        await asyncio.sleep(MAINTENANCE_S)
        try:
            await anyio.to_thread.run_sync(clients.expire)
            await anyio.to_thread.run_sync(store.maintain)
        except Exception as error:  # for example a full disk, which may have space at the next attempt
            _log.error("maintenance failed\n%s", describe_calls(error))


def _health(request: Request) -> dict[str, Any]:
    store: SessionStore = request.app.state.store
    return {"status": "ok", "sessions": store.count, "cached_mb": store.nbytes // 2**20}


def _page(request: Request, token: str | None = None) -> Response:
    if token is None:
        return FileResponse(VIEWER / "index.html")
    response = RedirectResponse("/", 303)  # removes the token from address bar and history
    max_age = int(_SECONDS_PER_DAY * request.app.state.store.settings.keep_days)  # also after the browser was closed
    name, secure = cookie_name(request.url.port), request.url.scheme == "https"
    response.set_cookie(name, token, httponly=True, samesite="strict", secure=secure, max_age=max_age)
    return response


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return JSONResponse({"type": "problem", "detail": first_error(error)}, 422)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"type": "problem", "detail": error.detail}, error.status_code, error.headers)


async def _input_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, InputError)
    store = request.app.state.store
    headers = {"retry-after": "30"} if isinstance(error, CapacityError) else None
    detail = without_folders(str(error), private_folders(store.settings))
    return JSONResponse({"type": "problem", "detail": detail}, error.http_status, headers)


async def _disk_error(request: Request, error: Exception) -> Response:
    if not is_disk_full(error):
        raise error
    detail = "the server's disk is full; tell its operator, and send it again later"
    return JSONResponse({"type": "problem", "detail": detail}, StorageError.http_status)
