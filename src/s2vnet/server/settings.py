"""How a server is set up. No torch."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Settings(BaseModel):
    """Settings of a server; what is not given is safe for one user on one machine."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    model: str
    """Name or folder of the model."""
    data: Path | None = None
    """Folder whose scans may be opened; nothing outside of it is ever read. None: only what is sent."""
    state: Path
    """Folder for sessions and what was sent; they survive a restart."""
    host: str = "127.0.0.1"
    """Address to listen on. Beyond this machine a token is needed."""
    port: int = Field(default=1537, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    token: str | None = Field(default=None, min_length=16, repr=False)
    """Secret that every client has to send."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    runtime: str = "torch"
    """What computes: torch, or on a CPU faster onnxruntime or openvino."""
    max_upload_mb: int = Field(default=2048, gt=0)
    """Largest file that may be sent, MB."""
    sent_mb: int = Field(default=32768, gt=0)
    """Disk for all scans that were sent, MB; the one that nobody has used for longest gives way to a new one."""
    max_voxels: int = Field(default=512 * 512 * 2000, gt=0)
    """Largest image that is opened, voxels of all its frames."""
    max_sessions: int = Field(default=64, gt=0)
    """Sessions that are open at once; the one that was idle for longest gives way if its lease has ended."""
    memory_mb: int = Field(default=4096, gt=0)
    """Memory for all sessions, MB; of those idle for longest what is cached goes to the disk, then they are let go."""
    lease_s: float = Field(default=600, gt=0)
    """Seconds without a word from a client after which its session is put on the disk."""
    keep_days: float = Field(default=30, gt=0)
    """Days that a session, and a scan that was sent, is kept on the disk after the last word."""
    requests_per_minute: int = Field(default=1200, gt=0)
    """Requests and messages of one address; more requests are refused for a while, and messages wait."""

    @model_validator(mode="after")
    def _guarded(self) -> Settings:
        if not is_local(self.host) and self.token is None:
            raise ValueError(f"listening on {self.host} needs a token (--token, or S2VNET_TOKEN); 127.0.0.1 needs none")
        return self


def is_local(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
