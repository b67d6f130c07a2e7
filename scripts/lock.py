"""Write constraints.txt and docs/licences.md from the installed versions of `s2vnet[dev]`; `--check` only compares.

make lock    # after `pip install --upgrade --upgrade-strategy eager -e ".[dev]"` on the oldest Python supported
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PINS, LICENCES = ROOT / "constraints.txt", ROOT / "docs" / "licences.md"
OF_TORCH = ("cuda-", "nvidia-", "triton")
"""Dependencies of torch's GPU builds, whose versions torch itself pins."""
HEAD = """# Written by scripts/lock.py: exact versions of all packages that `pip install -e ".[dev]"` installs, for the
# README's two commands and for CI. torch's CPU build has the same version; on other machines use any torch >= 2.4
# (https://pytorch.org/get-started/locally/).
"""
PAGE = """# Licences of what s2vnet uses

Written by `python scripts/lock.py`; do not edit. s2vnet itself is under the Apache License 2.0. Wheels contain NiiVue
(BSD-2-Clause), ONNX Runtime Web and NIFTI-Reader-JS (MIT) and dcm2niix (BSD-3-Clause), whose licences are
src/s2vnet/server/viewer/*-LICENSE.txt, and weights (src/s2vnet/weights/*/README.md); other packages are installed
separately, under their own terms. Packages that `s2vnet[all,notebook]` installs:

| package | licence |
|---|---|
"""


def closure(*extras: str) -> dict[str, Distribution]:
    """Return the installed distributions that s2vnet with these extras needs, by canonical name.

    Raises:
        SystemExit: One of them is not installed.
    """
    installed: dict[str, Distribution] = {}
    own = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pending, done = [("s2vnet", frozenset(extras))], set[tuple[str, frozenset[str]]]()
    while pending:
        name, wanted = pending.pop()
        if (name, wanted) in done:
            continue
        done.add((name, wanted))
        if name == "s2vnet":
            lines = [*own["dependencies"], *(line for extra in wanted for line in own["optional-dependencies"][extra])]
            pending += _needs(lines, frozenset())
            continue
        try:
            installed[name] = distribution(name)
        except PackageNotFoundError:
            sys.exit(f"{name} is not installed; run `pip install -e '.[dev]'` first")
        pending += _needs(installed[name].requires or (), wanted)
    return dict(sorted(installed.items()))


def _needs(lines: Iterable[str], extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    for line in lines:
        need = Requirement(line)
        if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield canonicalize_name(need.name), frozenset(need.extras)


def pins() -> str:
    """Return the content of constraints.txt."""
    named = {name: of for name, of in closure("dev").items() if not name.startswith(OF_TORCH)}
    return HEAD + "".join(f"{name}=={Version(of.version).public}\n" for name, of in named.items())


def licences() -> str:
    """Return the content of docs/licences.md."""
    return PAGE + "".join(f"| {name} | {licence(of)} |\n" for name, of in closure("all", "notebook").items())


def licence(of: Distribution) -> str:
    """Return a package's licence: its expression, else its classifiers, else the first line of the licence."""
    metadata = of.metadata
    if expression := metadata.get("License-Expression"):
        return expression
    named = [c.split(" :: ")[-1] for c in metadata.get_all("Classifier") or () if c.startswith("License :: ")]
    named = [name for name in named if name != "OSI Approved"]
    lines = (metadata.get("License") or "").strip().splitlines()
    return ", ".join(named) or (lines[0][:60] if lines else "not stated")


def main() -> None:
    """Write both files, or compare the pins with the installed versions."""
    if "--check" in sys.argv:
        stale = sorted(set(pins().splitlines()) - set(PINS.read_text().splitlines()))
        sys.exit(f"constraints.txt differs: {', '.join(stale)}; run `make lock`" if stale else 0)
    PINS.write_text(pins())
    LICENCES.write_text(licences())


if __name__ == "__main__":
    main()
