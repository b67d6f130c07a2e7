"""Settings of a server. Imports no torch."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Settings(BaseModel):
    """Settings of a server; the defaults are safe for one user on one machine."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    models: tuple[str, ...] = Field(min_length=1)
    """Names or folders of the models; a session has the one that its client names, else one that fits its scan."""
    data: Path | None = None
    """Folder whose scans may be opened; nothing outside it is ever read. None: only uploaded scans."""
    state: Path
    """Folder for sessions and uploaded scans; they survive a restart."""
    host: str = "127.0.0.1"
    """Address to listen on. An address reachable from other machines needs a token."""
    port: int = Field(default=1537, ge=0, le=65535)
    """Port to listen on; 0 chooses a free one."""
    token: str | None = Field(default=None, min_length=16, repr=False)
    """Secret that every client must send."""
    allow_origins: tuple[str, ...] = ()
    """Origins (``https://host:port``) whose pages may use this server from a browser, such as that of OHIF."""
    dicom_proxy: str | None = Field(default=None, pattern="^https?://[^/?#@]+(/[^?#]*)?$")
    """Address of a DICOMweb archive that OHIF reaches through this server (``/proxy/dicom``)."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    runtime: str = "auto"
    """Inference backend: torch, onnxruntime or openvino; auto: the fastest that is installed."""
    list_sessions: bool = False
    """Whether clients may list the sessions of all clients; meant for a server of one user."""
    any_modality: bool = False
    """Whether scans of the data folder are segmented even if their modality contradicts the models."""
    max_upload_mb: int = Field(default=2048, gt=0)
    """Largest upload, MB."""
    sent_mb: int = Field(default=32768, gt=0)
    """Disk quota of all uploaded scans, MB; the least recently used are removed for new ones."""
    max_voxels: int = Field(default=512 * 512 * 2000, gt=0)
    """Largest image that is opened, voxels of all frames together."""
    max_sessions: int = Field(default=64, gt=0)
    """Sessions open at once; the least recently used is closed for a new one if its lease has ended."""
    memory_mb: int = Field(default=4096, gt=0)
    """Memory of the server, model included, MB; beyond it the least recently used sessions are offloaded or closed."""
    lease_s: float = Field(default=600, gt=0)
    """Seconds without a request after which a session is closed; its record stays on the disk."""
    keep_days: float = Field(default=30, gt=0)
    """Days after the last request for which sessions and uploaded scans are kept on the disk."""
    requests_per_minute: int = Field(default=1200, gt=0)
    """Requests and messages per client address; further requests are refused, further messages delayed."""

    @field_validator("allow_origins")
    @classmethod
    def _require_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            parts = urlsplit(origin)
            if (
                parts.scheme not in ("http", "https")
                or not parts.hostname
                or origin != f"{parts.scheme}://{parts.netloc}"
            ):
                raise ValueError(f"{origin} is no origin; give scheme, host and port only, as https://ohif.example.org")
        return origins

    @model_validator(mode="after")
    def _require_token(self) -> Settings:
        if not is_local(self.host) and self.token is None:
            raise ValueError(f"listening on {self.host} needs a token (--token, or S2VNET_TOKEN); 127.0.0.1 needs none")
        return self


def is_local(host: str) -> bool:
    """Whether an address is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
