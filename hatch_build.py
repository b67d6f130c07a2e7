"""Building a wheel brings the viewer's library into it (scripts/viewer.py); without npm the wheel has no viewer."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ViewerHook(BuildHookInterface):  # type: ignore[type-arg]
    """Hatchling calls this before it collects files."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Fetch NiiVue for a wheel; an editable install takes what is there."""
        if self.target_name != "wheel" or version != "standard":
            return
        spec = importlib.util.spec_from_file_location("viewer", Path(self.root) / "scripts" / "viewer.py")
        assert spec is not None
        assert spec.loader is not None
        viewer = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(viewer)
        try:
            viewer.main()
        except SystemExit as error:
            self.app.display_warning(f"the wheel gets no viewer: {error}")
