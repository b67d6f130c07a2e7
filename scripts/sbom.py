"""Complete the bill of materials written by cyclonedx-py: version of s2vnet, missing licences, the viewer's library.

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
"""Installed in every environment, but not a dependency of s2vnet."""
VIEWER = {
    "type": "library",
    "bom-ref": f"{PACKAGE}=={VERSION}",
    "name": PACKAGE,
    "version": VERSION,
    "purl": f"pkg:npm/{PACKAGE.replace('@', '%40')}@{VERSION}",
    "licenses": [{"license": {"id": "BSD-2-Clause", "acknowledgement": "declared"}}],
}
"""Included in the wheels, not installed as a dependency."""


def finish(content: dict[str, Any]) -> None:
    """Add what cyclonedx-py omits: the version, contents of the wheels, licences stated only as text."""
    own = content["metadata"]["component"]
    own |= {"version": version("s2vnet"), "purl": f"pkg:pypi/s2vnet@{version('s2vnet')}"}
    removed = {one["bom-ref"] for one in content["components"] if one["name"] == INSTALLER}
    for part, key in (("components", "bom-ref"), ("dependencies", "ref")):
        content[part] = [one for one in content[part] if one[key] not in removed]
    for one in content["components"]:
        if not one.get("licenses"):
            name = licence(distribution(one["name"]))
            one["licenses"] = [{"license": {"name": name, "acknowledgement": "declared"}}]
    content["components"].append(VIEWER)
    content["dependencies"].append({"ref": VIEWER["bom-ref"]})
    root = next(one for one in content["dependencies"] if one["ref"] == own["bom-ref"])
    root.setdefault("dependsOn", []).append(VIEWER["bom-ref"])


def main() -> None:
    """Complete the file; exit code 1 if a licence is missing or the file contains a local path."""
    file = Path(sys.argv[1])
    content = json.loads(file.read_text())
    finish(content)
    text = json.dumps(content, indent=2) + "\n"
    if problems := [word for word in ("not stated", "file:", str(ROOT), sys.prefix) if word in text]:
        sys.exit(f"{file}: {', '.join(problems)}")
    file.write_text(text)


if __name__ == "__main__":
    main()
