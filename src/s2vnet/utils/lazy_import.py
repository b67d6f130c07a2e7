"""Modules that are imported at their first use."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class LazyModule:
    """Stand-in for a module that is imported when one of its attributes is first read.

    For start-up time: the help of a command does not wait for torch. ``importlib.util.LazyLoader`` does not serve here,
    since such modules cannot import from each other while they load.
    """

    def __init__(self, name: str) -> None:
        """Args: absolute name of the module."""
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        """Raise ImportError where there is no module of this name."""
        return getattr(import_module(self._name), attribute)
