"""S2VNet: one 2D network that segments whole 3D volumes automatically and interactively, every class at once.

The names below are the public interface: they keep their meaning within a minor version. Other modules may change.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from s2vnet._version import __version__

if TYPE_CHECKING:
    from s2vnet.errors import InputError as InputError
    from s2vnet.errors import S2VNetError as S2VNetError
    from s2vnet.inference.segmentation import Segmentation as Segmentation
    from s2vnet.inference.segmenter import Segmenter as Segmenter
    from s2vnet.interactive.session import Session as Session
    from s2vnet.io.convert import as_label_map as as_label_map
    from s2vnet.io.convert import as_volume as as_volume
    from s2vnet.io.convert import to_nibabel as to_nibabel
    from s2vnet.io.convert import to_simpleitk as to_simpleitk
    from s2vnet.io.files import read_image as read_image
    from s2vnet.io.files import read_labels as read_labels
    from s2vnet.io.files import write_image as write_image
    from s2vnet.io.files import write_labels as write_labels
    from s2vnet.io.geometry import Geometry as Geometry
    from s2vnet.io.geometry import LabelMap as LabelMap
    from s2vnet.io.geometry import Volume as Volume
    from s2vnet.prompts import Box as Box
    from s2vnet.prompts import Lasso as Lasso
    from s2vnet.prompts import Lock as Lock
    from s2vnet.prompts import Mask as Mask
    from s2vnet.prompts import Point as Point
    from s2vnet.prompts import Scribble as Scribble

_MODULES = {
    "Box": "s2vnet.prompts",
    "Geometry": "s2vnet.io.geometry",
    "InputError": "s2vnet.errors",
    "LabelMap": "s2vnet.io.geometry",
    "Lasso": "s2vnet.prompts",
    "Lock": "s2vnet.prompts",
    "Mask": "s2vnet.prompts",
    "Point": "s2vnet.prompts",
    "S2VNetError": "s2vnet.errors",
    "Scribble": "s2vnet.prompts",
    "Segmentation": "s2vnet.inference.segmentation",
    "Segmenter": "s2vnet.inference.segmenter",
    "Session": "s2vnet.interactive.session",
    "Volume": "s2vnet.io.geometry",
    "as_label_map": "s2vnet.io.convert",
    "as_volume": "s2vnet.io.convert",
    "read_image": "s2vnet.io.files",
    "read_labels": "s2vnet.io.files",
    "to_nibabel": "s2vnet.io.convert",
    "to_simpleitk": "s2vnet.io.convert",
    "write_image": "s2vnet.io.files",
    "write_labels": "s2vnet.io.files",
}
__all__ = [
    "Box",
    "Geometry",
    "InputError",
    "LabelMap",
    "Lasso",
    "Lock",
    "Mask",
    "Point",
    "S2VNetError",
    "Scribble",
    "Segmentation",
    "Segmenter",
    "Session",
    "Volume",
    "__version__",
    "as_label_map",
    "as_volume",
    "read_image",
    "read_labels",
    "to_nibabel",
    "to_simpleitk",
    "write_image",
    "write_labels",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is used, so that `import s2vnet` and `s2vnet --help` need no torch."""
    if name not in _MODULES:
        raise AttributeError(f"module 's2vnet' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """List the public names, also those that have not been used yet (completion in a shell)."""
    return sorted(__all__)
