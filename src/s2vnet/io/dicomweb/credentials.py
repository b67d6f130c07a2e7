"""Credentials of a DICOMweb archive: from the environment, or from the user's netrc file; never from the command line.

``S2VNET_DICOMWEB_TOKEN`` is sent as a bearer token; ``S2VNET_DICOMWEB_USER`` and ``S2VNET_DICOMWEB_PASSWORD`` by basic
authentication. Else the host's line of the file ``$NETRC`` or ``~/.netrc`` is used, as by curl and git.
"""

from __future__ import annotations

import netrc
import os
import stat
from pathlib import Path
from typing import Any, NamedTuple

from requests.auth import AuthBase, HTTPBasicAuth

from s2vnet.errors import InputError, NotFoundError

TOKEN, USER, PASSWORD = "S2VNET_DICOMWEB_TOKEN", "S2VNET_DICOMWEB_USER", "S2VNET_DICOMWEB_PASSWORD"
NETRC = "NETRC"
HOW_TO_SET = f"set {USER} and {PASSWORD}, or {TOKEN}, or add the host to ~/.netrc"


class Bearer(AuthBase):  # type: ignore[misc]
    """Authentication by a bearer token."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: Any) -> Any:
        """Add the token to a request."""
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class NoCredentials(AuthBase):  # type: ignore[misc]
    """Authentication by nothing; without it, requests reads a netrc file itself, whoever may read that."""

    def __call__(self, request: Any) -> Any:
        """Return the request as it is."""
        return request


class _Login(NamedTuple):
    user: str
    password: str


def find_credentials(host: str) -> AuthBase:
    """Return the authentication for an archive's host.

    Raises:
        InputError: a user without a password or the reverse, a credential with line ends, or a netrc file that others
            may read, or that is not one.
    """
    if token := os.environ.get(TOKEN):
        return Bearer(_one_line(TOKEN, token))
    user, password = os.environ.get(USER), os.environ.get(PASSWORD)
    if (user is None) != (password is None):
        raise InputError(f"{USER if user is None else PASSWORD} is not set; set both, or neither")
    if user is None or password is None:
        login = _netrc_login(host)
        if login is None:
            return NoCredentials()
        user, password = login
    return HTTPBasicAuth(_one_line(USER, user).encode(), _one_line(PASSWORD, password).encode())


def _one_line(name: str, value: str) -> str:
    if not value.isprintable():
        raise InputError(f"{name}: a credential is one line of text; remove line ends and control characters")
    return value


def _netrc_login(host: str) -> _Login | None:
    """User and password of a host by the netrc file; None if there is no file, or no line for the host."""
    named = os.environ.get(NETRC)
    path = Path(named) if named else Path.home() / ".netrc"
    try:
        status = path.stat()
        entry = netrc.netrc(path).authenticators(host)
    except FileNotFoundError as error:
        if named:
            raise NotFoundError(f"{path}: no such file; correct {NETRC}") from error
        return None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; make it readable for you alone") from error
    except (netrc.NetrcParseError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a netrc file; write `machine {host} login USER password PASSWORD`") from error
    if entry is None:
        return None
    if os.name == "posix" and status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise InputError(f"{path}: other users may read the passwords in it; run `chmod 600` on it")
    return _Login(entry[0] or "", entry[2] or "")
