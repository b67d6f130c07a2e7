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

_MODULES = {
    "Segmenter": "s2vnet.inference.segmenter",
    "Session": "s2vnet.interactive.session",
    "read_image": "s2vnet.io.files",
    "write_labels": "s2vnet.io.files",
}
__all__ = ["Segmenter", "Session", "__version__", "read_image", "write_labels"]


def __getattr__(name: str) -> object:
    """Import a public name when it is used, so that `import s2vnet` and `s2vnet --help` need no torch."""
    if name not in _MODULES:
        raise AttributeError(f"module 's2vnet' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
