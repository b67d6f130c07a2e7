"""Every build brings the viewer's libraries into the package (scripts/viewer.py), or fails."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

WITHOUT_VIEWER = "S2VNET_WITHOUT_VIEWER"
"""Environment variable; 1 builds without the library, for machines that reach no npm registry."""


class ViewerHook(BuildHookInterface):  # type: ignore[type-arg]
    """Hatchling calls this before it collects the files of a wheel, an editable install or a source archive."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Fetch the libraries.

        Raises:
            RuntimeError: one cannot be fetched, or its content is not the pinned one.
        """
        if os.environ.get(WITHOUT_VIEWER, "0") not in ("", "0"):
            self.app.display_warning("built without the viewer (`s2vnet view`, the page of `s2vnet serve`)")
            return
        spec = importlib.util.spec_from_file_location("viewer", Path(self.root) / "scripts" / "viewer.py")
        assert spec is not None
        assert spec.loader is not None
        viewer = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(viewer)
        try:
            viewer.main()
        except SystemExit as error:
            message = f"no viewer, so nothing was built: {error}. {WITHOUT_VIEWER}=1 builds without the viewer."
            raise RuntimeError(message) from None
