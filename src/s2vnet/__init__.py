"""S2VNet: one 2D network that segments whole 3D volumes automatically and interactively, every class at once."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from s2vnet._version import __version__

if TYPE_CHECKING:
    from s2vnet.inference.segmenter import Segmenter as Segmenter
    from s2vnet.interactive.session import Session as Session
    from s2vnet.io.files import read_image as read_image
    from s2vnet.io.files import write_labels as write_labels

_WHERE = {
    "Segmenter": "s2vnet.inference.segmenter",
    "Session": "s2vnet.interactive.session",
    "read_image": "s2vnet.io.files",
    "write_labels": "s2vnet.io.files",
}
__all__ = ["Segmenter", "Session", "__version__", "read_image", "write_labels"]


def __getattr__(name: str) -> object:
    """Public names load when they are used: `import s2vnet` and `s2vnet --help` shall not wait for torch."""
    if name not in _WHERE:
        raise AttributeError(f"module 's2vnet' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
