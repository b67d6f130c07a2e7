"""Finish the bill of materials that cyclonedx-py wrote of this environment: our version, every licence, the viewer.

python scripts/sbom.py dist/sbom.cdx.json    # by the Python of the environment it is about
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any

from lock import ROOT, licence
from viewer import PACKAGE, VERSION

INSTALLER = "pip"
"""Is in every environment, and no part of what s2vnet needs."""
VIEWER = {
    "type": "library",
    "bom-ref": f"{PACKAGE}=={VERSION}",
    "name": PACKAGE,
    "version": VERSION,
    "purl": f"pkg:npm/{PACKAGE.replace('@', '%40')}@{VERSION}",
    "licenses": [{"license": {"id": "BSD-2-Clause", "acknowledgement": "declared"}}],
}
"""In our wheels, not beside them."""


def finish(content: dict[str, Any]) -> None:
    """Say what cyclonedx-py leaves out: our version, what wheels have in them, licences told in words alone."""
    own = content["metadata"]["component"]
    own |= {"version": version("s2vnet"), "purl": f"pkg:pypi/s2vnet@{version('s2vnet')}"}
    left = {one["bom-ref"] for one in content["components"] if one["name"] == INSTALLER}
    for part, key in (("components", "bom-ref"), ("dependencies", "ref")):
        content[part] = [one for one in content[part] if one[key] not in left]
    for one in content["components"]:
        if not one.get("licenses"):
            told = licence(distribution(one["name"]))
            one["licenses"] = [{"license": {"name": told, "acknowledgement": "declared"}}]
    content["components"].append(VIEWER)
    content["dependencies"].append({"ref": VIEWER["bom-ref"]})
    root = next(one for one in content["dependencies"] if one["ref"] == own["bom-ref"])
    root.setdefault("dependsOn", []).append(VIEWER["bom-ref"])


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
