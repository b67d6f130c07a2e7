"""Optional dependencies."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from s2vnet.errors import InputError


def require_extra(extra: str, purpose: str, *modules: str) -> None:
    """Check that the modules of an optional dependency are installed, without importing them.

    Args:
        extra: Name of the extra in ``pip install "s2vnet[extra]"``.
        purpose: What needs the modules; the message begins with it.
        modules: Names of top-level modules.

    Raises:
        InputError: Some are not installed; names them and the command that installs them.
    """
    missing = [name for name in modules if sys.modules.get(name) is None and find_spec(name) is None]
    if missing:
        raise InputError(f'{purpose} needs {", ".join(missing)}: pip install "s2vnet[{extra}]"')
