"""Routes by which OHIF's pages reach a DICOMweb archive through this server, as MONAI Label's own server offers them.

The archive is the operator's (`dicom_proxy` in the settings): neither a request nor an answer of the archive leads
anywhere else, since only the path below its address is a client's, and redirects are not followed.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import IO, Any
from urllib.parse import parse_qsl, quote, urlencode

from anyio import to_thread
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response, StreamingResponse

from s2vnet.errors import NotFoundError
from s2vnet.server.api import StoreDep

OPERATIONS = ("wado", "qido", "stow")
"""First parts of paths, which MONAI Label's server maps to the same archive."""
TIMEOUT_S = 60.0
_BAD_GATEWAY = 502
_CHUNK_NBYTES = 1 << 18
_SENT, _RETURNED = ("accept", "content-type"), ("content-type", "content-length")
router = APIRouter()


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Return the redirecting response itself."""


_opener = urllib.request.build_opener(_NoRedirects, urllib.request.ProxyHandler({}))


@router.get("/proxy/dicom/{path:path}")
@router.post("/proxy/dicom/{path:path}")
async def proxy(request: Request, store: StoreDep, path: str) -> Response:
    """Pass a request on to the archive, and its answer back."""
    archive = store.settings.dicom_proxy
    if archive is None:
        raise HTTPException(404, "no DICOM archive; the server's operator names one by -n dicom_proxy=URL")
    headers = {name: value for name in _SENT if (value := request.headers.get(name)) is not None}
    body = await request.body() if request.method == "POST" else None
    forwarded = urllib.request.Request(
        archive_url(archive, path, request.url.query), data=body, headers=headers, method=request.method
    )
    answer = await to_thread.run_sync(_open, forwarded)
    returned = {name: value for name in _RETURNED if (value := answer.headers.get(name)) is not None}
    return StreamingResponse(_chunks(answer), answer.status, returned)


def archive_url(archive: str, path: str, query: str) -> str:
    """Return the address of a client's path below that of the archive, without the server's token.

    Raises:
        InputError: a path that leads out of the archive's.
    """
    first, _, rest = path.partition("/")
    parts = (rest if first in OPERATIONS else path).split("/")
    if any(part in (".", "..") for part in parts):
        raise NotFoundError("no such path in the archive")
    values = [(key, value) for key, value in parse_qsl(query, keep_blank_values=True) if key != "token"]
    encoded = "/".join(quote(part, safe="", errors="replace") for part in parts)
    return f"{archive.rstrip('/')}/{encoded}{'?' if values else ''}{urlencode(values, errors='replace')}"


def _open(request: urllib.request.Request) -> Any:
    """Return the archive's answer, whatever its status. Raises HTTPException if there is none."""
    try:
        return _opener.open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        return error
    except (OSError, ValueError) as error:
        raise HTTPException(_BAD_GATEWAY, "the DICOM archive does not answer") from error


def _chunks(answer: IO[bytes]) -> Iterator[bytes]:
    with answer:
        while chunk := answer.read(_CHUNK_NBYTES):
            yield chunk
