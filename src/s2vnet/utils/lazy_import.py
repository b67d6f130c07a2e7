"""Modules that are imported at their first use."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class LazyModule:
    """Stand-in for a module that is imported when one of its attributes is first read.

    Shortens the start-up time: the help of a command does not import torch. Modules of ``importlib.util.LazyLoader``
    cannot import from each other while they load.
    """

    def __init__(self, name: str) -> None:
        """Create a stand-in for the module with this absolute name."""
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        """Import the module and return its attribute. Raises ImportError if there is no such module."""
        return getattr(import_module(self._name), attribute)
