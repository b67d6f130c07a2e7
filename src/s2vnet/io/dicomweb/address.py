"""Addresses of DICOMweb archives: ``dicomwebs://host/path`` by https, ``dicomweb://localhost:8042/path`` by http.

Images and passwords cross the network only encrypted: http is for this machine, and for hosts that
:data:`HTTP_HOSTS` names, such as another container of a private network.
"""

from __future__ import annotations

import ipaddress
import os
import re
from typing import NamedTuple
from urllib.parse import urlsplit

from s2vnet.errors import InputError

SCHEMES = {"dicomweb": "http", "dicomwebs": "https"}
"""Schemes of HTTP by those of addresses."""
HTTP_HOSTS = "S2VNET_DICOMWEB_HTTP_HOSTS"
"""Environment variable: hosts, comma-separated, that may be reached by http although they are other machines."""
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_MAX_UID_LENGTH = 64
_EXAMPLE = "give it as dicomwebs://host/path or dicomweb://localhost:8042/dicom-web"


class Address(NamedTuple):
    """An archive, and optionally one study or series in it."""

    root: str
    """URL of the service, ``http://`` or ``https://``, without a slash at its end."""
    study: str | None = None
    """StudyInstanceUID."""
    series: str | None = None
    """SeriesInstanceUID."""

    @property
    def host(self) -> str:
        """Name or IP address of the archive's machine."""
        return urlsplit(self.root).hostname or ""

    @property
    def archive(self) -> str:
        """Address of the archive alone, as users write it."""
        scheme, _, rest = self.root.partition("://")
        return f"{'dicomwebs' if scheme == 'https' else 'dicomweb'}://{rest}"

    def __str__(self) -> str:
        parts = [self.archive]
        parts += ["studies", self.study] if self.study else []
        parts += ["series", self.series] if self.series else []
        return "/".join(parts)


def is_address(text: str) -> bool:
    """Whether a location is the address of a DICOMweb archive."""
    return text.partition("://")[0].lower() in SCHEMES and "://" in text


def parse_address(text: str) -> Address:
    """Parse an address, which may end in ``/studies/UID``, ``/studies/UID/series/UID`` or ``/series/UID``.

    Raises:
        InputError: another scheme, no host, a user or password in the address, a query, a UID that is none, or http to
            another machine.
    """
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(f"not an address of a DICOM archive; {_EXAMPLE}") from error
    if "@" in parts.netloc:  # not quoted, since it contains a password
        raise InputError(
            "an address must not contain a user or password, which other users of this machine could read; "
            "set S2VNET_DICOMWEB_USER and S2VNET_DICOMWEB_PASSWORD, or add the host to ~/.netrc"
        )
    if parts.scheme not in SCHEMES or not host or parts.query or parts.fragment:
        raise InputError(f"{text}: not an address of a DICOM archive; {_EXAMPLE}")
    if parts.scheme == "dicomweb" and not is_loopback(host) and host not in _trusted_hosts():
        raise InputError(
            f"{text}: {host} is another machine, which http would send images and passwords to without encryption; "
            f"write dicomwebs:// for https, or name the host in {HTTP_HOSTS} if no other machine can listen"
        )
    match = re.fullmatch(r"(?P<path>.*?)(/studies/(?P<study>[^/]*))?(/series/(?P<series>[^/]*))?/*", parts.path)
    assert match is not None
    for name in ("study", "series"):
        if match[name] is not None and not is_uid(match[name]):
            raise InputError(f"{text}: the UID of the {name} is not one; copy it from the archive")
    if ".." in match["path"].split("/"):
        raise InputError(f"{text}: not an address of a DICOM archive; {_EXAMPLE}")
    name = f"[{host}]" if ":" in host else host
    authority = name if port is None else f"{name}:{port}"
    return Address(f"{SCHEMES[parts.scheme]}://{authority}{match['path'].rstrip('/')}", match["study"], match["series"])


def is_uid(text: str) -> bool:
    """Whether text is a DICOM UID, and thus safe within paths and URLs."""
    return len(text) <= _MAX_UID_LENGTH and _UID.fullmatch(text) is not None


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _trusted_hosts() -> list[str]:
    return [host.strip().lower() for host in os.environ.get(HTTP_HOSTS, "").split(",") if host.strip()]
