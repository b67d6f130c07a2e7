"""Ids of images that carry a signature, for clients that download an image without sending the token.

3D Slicer downloads the next sample by ``/datastore/image?image=ID`` with a function that cannot send headers. Where the
server has a token, the ids that it gives to clients end in a signature made with the token: who knows such an id has
received it from a client with the token, and may download this image, and nothing else.
"""

from __future__ import annotations

import hashlib
import hmac
import re

_SIGNED = re.compile(r"(?P<id>.+)~(?P<signature>[0-9a-f]{32})", re.DOTALL)


def sign(image: str, token: str | None) -> str:
    """Return an image's id with a signature; the id itself where the server has no token."""
    return image if token is None else f"{image}~{_signature(image, token)}"


def unsign(image: str, token: str | None) -> str | None:
    """Return the id of a signed one; None if it has no valid signature."""
    match = _SIGNED.fullmatch(image)
    if token is None or match is None:
        return None
    return match["id"] if hmac.compare_digest(_signature(match["id"], token), match["signature"]) else None


def _signature(image: str, token: str) -> str:
    key = hashlib.sha256(b"s2vnet image id " + token.encode()).digest()
    return hmac.new(key, image.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:32]
