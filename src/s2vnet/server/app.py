"""The server: one application of the API and the viewer, behind the guard."""

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
from starlette.middleware.gzip import GZipMiddleware

from s2vnet._version import __version__
from s2vnet.errors import InputError
from s2vnet.inference.segmenter import Segmenter
from s2vnet.server import api
from s2vnet.server import security as guard
from s2vnet.server.protocols import itksnap, monailabel, nninteractive
from s2vnet.server.scan_library import Full
from s2vnet.server.session_store import SessionStore
from s2vnet.server.settings import Settings
from s2vnet.utils.validation import first_error

_log = logging.getLogger(__name__)
VIEWER = Path(__file__).parent / "viewer"
TEND_S = 5.0
"""Seconds between two looks at leases and memory."""


def create_app(settings: Settings, segmenter: Segmenter | None = None) -> FastAPI:
    """The application of a server.

    Raises:
        CheckpointError: no such model.
        InputError: folders that are not there or cannot be written.
    """
    if segmenter is None:
        segmenter = Segmenter.from_pretrained(settings.model, device=settings.device, runtime=settings.runtime)
    store = SessionStore(settings, segmenter)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        tending = asyncio.create_task(_tend(store))
        yield
        tending.cancel()
        await anyio.to_thread.run_sync(app.state.monailabel.close)
        store.close()

    app = FastAPI(title="s2vnet", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.store = store
    app.add_middleware(guard.SecurityMiddleware, settings=settings)
    app.add_exception_handler(InputError, _refused)
    app.add_exception_handler(RequestValidationError, _unreadable)
    app.add_exception_handler(HTTPException, _failed)
    app.state.nninteractive = nninteractive.Leases(store)
    app.state.monailabel = monailabel.Pool(store)
    app.state.itksnap = itksnap.Clients(store)
    app.include_router(api.router)
    app.include_router(monailabel.router)
    for address in ("", "/{label}", "/{label}/{axes}"):
        app.include_router(nninteractive.router, prefix=f"/nninteractive{address}")
    app.include_router(itksnap.router)
    app.add_api_route("/healthz", _health, include_in_schema=False)
    app.add_api_route("/", _page, include_in_schema=False)
    app.mount("/", GZipMiddleware(StaticFiles(directory=VIEWER), compresslevel=6), name="viewer")
    return app


def viewer_hint() -> str | None:
    """What to do where the viewer's library is missing, as in a clone that nobody has built; None where it is there."""
    if (VIEWER / "vendor" / "niivue.js").is_file():
        return None
    return "the viewer's library (NiiVue) is missing; run `python scripts/viewer.py` in the clone, or install a wheel"


async def _tend(store: SessionStore) -> None:
    while True:
        await asyncio.sleep(TEND_S)
        try:
            await anyio.to_thread.run_sync(store.tend)
        except Exception:  # a full disk, say: the next look may find room
            _log.exception("housekeeping failed")


def _health(request: Request) -> dict[str, Any]:
    store: SessionStore = request.app.state.store
    return {"status": "ok", "sessions": store.count, "cached_mb": store.nbytes // 2**20}


def _page(request: Request, token: str | None = None) -> Response:
    if token is None:
        return FileResponse(VIEWER / "index.html")
    answer = RedirectResponse("/", 303)  # out of the address bar, and of the history
    name, secure = guard.cookie_name(request.url.port), request.url.scheme == "https"
    answer.set_cookie(name, token, httponly=True, samesite="strict", secure=secure)
    return answer


async def _unreadable(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return JSONResponse({"type": "problem", "detail": first_error(error)}, 422)


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"type": "problem", "detail": error.detail}, error.status_code, error.headers)


async def _refused(request: Request, error: Exception) -> Response:
    status = 503 if isinstance(error, Full) else 404 if str(error).startswith("no such") else 422
    headers = {"retry-after": "30"} if status == 503 else None
    return JSONResponse({"type": "problem", "detail": str(error)}, status, headers)
