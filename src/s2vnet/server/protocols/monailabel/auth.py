"""Routes by which MONAI Label's clients exchange a user's password for a token: the password is the server's token."""

from __future__ import annotations

import hmac
from typing import Annotated, Any

from fastapi import APIRouter, Form, HTTPException, Request

from s2vnet.server.api import StoreDep
from s2vnet.server.security import UNAUTHORIZED, is_authenticated
from s2vnet.server.session_store import SessionStore

NOT_NEEDED = 404
router = APIRouter(prefix="/auth")


@router.get("/")
def auth(request: Request, store: StoreDep) -> dict[str, Any]:
    """Return whether a client has to log in: not where its address contains the token already."""
    _require_token(store)
    return {"enabled": not is_authenticated(request.scope), "client_id": "s2vnet", "realm": None}


@router.post("/token")
def exchange(
    store: StoreDep, password: Annotated[str, Form()] = "", username: Annotated[str, Form()] = ""
) -> dict[str, str]:
    """Return the token to a client whose password it is, whatever its user name."""
    token = _require_token(store)
    if not hmac.compare_digest(password.encode(), token.encode()):
        raise HTTPException(UNAUTHORIZED, "the password is the server's token; this is another one")
    return {"access_token": token, "token_type": "Bearer"}


@router.get("/token/valid")
def valid(request: Request, store: StoreDep) -> dict[str, Any]:
    """Report whether a request has the token."""
    _require_token(store)
    if not is_authenticated(request.scope):
        raise HTTPException(UNAUTHORIZED, "this is not the server's token")
    return {"username": "client", "email": None, "name": None, "roles": []}


def _require_token(store: SessionStore) -> str:
    if store.settings.token is None:
        raise HTTPException(NOT_NEEDED, "this server has no token, so there is nothing to log in to")
    return store.settings.token
