"""Optional dependencies."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from s2vnet.errors import InputError


def require_extra(extra: str, purpose: str, *modules: str) -> None:
    """Check that the modules of an optional dependency are installed, without importing them.

    Args:
        extra: Name of the extra in ``pip install "s2vnet[extra]"``.
        purpose: Feature that needs the modules; the first words of the message.
        modules: Names of top-level modules.

    Raises:
        InputError: Modules are missing; the message lists them and the command that installs them.
    """
    missing = [name for name in modules if sys.modules.get(name) is None and find_spec(name) is None]
    if missing:
        raise InputError(f'{purpose} needs {", ".join(missing)}: pip install "s2vnet[{extra}]"')
