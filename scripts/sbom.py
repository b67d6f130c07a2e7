"""Finish the bill of materials that cyclonedx-py wrote of this environment: our version, every licence, no path.

python scripts/sbom.py dist/sbom.cdx.json    # by the Python of the environment it is about
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any

from lock import ROOT, licence

INSTALLER = "pip"
"""Is in every environment, and no part of what s2vnet needs."""


def finish(content: dict[str, Any]) -> None:
    """Say what cyclonedx-py leaves out: a version that is not in pyproject.toml, licences told in words alone."""
    own = content["metadata"]["component"]
    own |= {"version": version("s2vnet"), "purl": f"pkg:pypi/s2vnet@{version('s2vnet')}"}
    left = {one["bom-ref"] for one in content["components"] if one["name"] == INSTALLER}
    for part, key in (("components", "bom-ref"), ("dependencies", "ref")):
        content[part] = [one for one in content[part] if one[key] not in left]
    for one in content["components"]:
        if not one.get("licenses"):
            told = licence(distribution(one["name"]))
            one["licenses"] = [{"license": {"name": told, "acknowledgement": "declared"}}]


def main() -> None:
    """Finish the file; exit code 1 where a licence is not stated or something of this machine is in it."""
    file = Path(sys.argv[1])
    content = json.loads(file.read_text())
    finish(content)
    text = json.dumps(content, indent=2) + "\n"
    if found := [word for word in ("not stated", "file:", str(ROOT), sys.prefix) if word in text]:
        sys.exit(f"{file}: {', '.join(found)}")
    file.write_text(text)


if __name__ == "__main__":
    main()
