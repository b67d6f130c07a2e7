"""Optional dependencies."""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, requires
from importlib.util import find_spec

from s2vnet.errors import MissingDependencyError


def require_extra(extra: str, purpose: str, *modules: str) -> None:
    """Check that the modules of an optional dependency are installed, without importing them.

    Args:
        extra: Name of the extra, a key of ``project.optional-dependencies`` in ``pyproject.toml``.
        purpose: Feature that needs the modules; the first words of the message.
        modules: Names of top-level modules.

    Raises:
        MissingDependencyError: Modules are missing; the message lists them and the command that installs them.
    """
    missing = [name for name in modules if not is_installed(name)]
    if missing:
        raise MissingDependencyError(f"{purpose} needs {', '.join(missing)}: {install_command(extra)}")


def is_installed(module: str) -> bool:
    """Whether a top-level module is installed, without importing it."""
    if module in sys.modules:
        return sys.modules[module] is not None
    return find_spec(module) is not None


def install_command(extra: str) -> str:
    """Return a pip command that installs the packages of an extra, wherever s2vnet itself was installed from.

    It names the packages rather than ``s2vnet[extra]``, which pip finds on a package index only.

    Args:
        extra: Name of the extra.
    """
    packages = " ".join(f'"{name}"' for name in requirements(extra))
    return f"pip install {packages}" if packages else f'pip install "s2vnet[{extra}]"'


def requirements(extra: str) -> list[str]:
    """Return the requirements of an extra, such as ``onnx<2,>=1.17``, those of extras that it includes too.

    Args:
        extra: Name of the extra.

    Returns:
        Requirements in the notation of pip, sorted; empty if s2vnet is not installed as a package.
    """
    try:
        lines = requires("s2vnet") or []
    except PackageNotFoundError:
        return []
    found = set[str]()
    for line in lines:
        requirement, _, marker = line.partition(";")
        if not re.search(rf"""extra\s*==\s*['"]{re.escape(extra)}['"]""", marker):
            continue
        if included := re.fullmatch(r"s2vnet\[([\w,-]+)\]", requirement.strip()):
            found.update(need for name in included[1].split(",") for need in requirements(name))
        else:
            found.add(requirement.strip())
    return sorted(found)
